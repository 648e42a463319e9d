"""Two workers share the machine: each computes with one thread, and the files with long tests begin."""

import copy
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shared

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

LONGEST = (  # minutes of real processes each, under DVC
    *("test_docs.py", "test_dvc.py", "test_fresh_clone.py", "test_study_dvc.py", "test_queue.py", "test_extending.py"),
    *("test_training.py", "test_remotes.py", "test_extraction_killed.py", "test_extraction_processors.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin, then those with many slow tests: a long file that starts last runs alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (LONGEST.index(item.path.name) if item.path.name in LONGEST else 99, -slow[item.path]))


@pytest.fixture(scope="session", autouse=True)
def shared_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    shared.begin(tmp_path_factory)


@pytest.fixture(scope="module", autouse=True)
def networks_of_torchvision_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """VGG-16's 138 million random numbers are drawn once for each seed, and its head's are not kept.

    Not where the random weights themselves are tested.
    """
    networks = sys.modules.get("pipeline.backbones.torchvision_networks")
    if networks is None or request.path.parent.name == "backbones":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "get_model", _once(networks.get_model))
        yield


def _once(get_model: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def remembered(name: str, **options: object) -> Any:
        if name != "vgg16" or any(options.values()) or torch.get_default_device().type == "meta":
            return get_model(name, **options)
        if (seed := torch.initial_seed()) not in _VGG16:
            _VGG16[seed] = get_model(name)
            _VGG16[seed].classifier.to("meta")
        return copy.deepcopy(_VGG16[seed])

    return remembered


_VGG16: dict[int, Any] = {}


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one small extraction that nothing interrupted."""
    from small_stores import small_extraction, tree  # torch reads the number of threads when it is imported

    root = tmp_path_factory.mktemp("undisturbed")
    small_extraction(root)
    return tree(root / "features")
