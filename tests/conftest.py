"""Two workers share the machine: each computes with one thread, and the files with long tests begin."""

import os

import pytest
import shared

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long file that starts last runs alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def shared_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    shared.begin(tmp_path_factory)


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one small extraction that nothing interrupted."""
    from small_stores import small_extraction, tree  # torch reads the number of threads when it is imported

    root = tmp_path_factory.mktemp("undisturbed")
    small_extraction(root)
    return tree(root / "features")
