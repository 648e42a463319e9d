"""Which stores belong to params.yaml: a network's name alone does not say what was extracted under it."""

from __future__ import annotations

from pathlib import Path

import pytest
from messages import says
from small_stores import SmallBackbone, SmallData, small_extraction

from pipeline.core.errors import StoreError
from pipeline.core.params import load_params
from pipeline.loading.inputs import open_features
from pipeline.stores.base import FeatureStore

PARAMS = Path(__file__).parents[2] / "params.yaml"
ENTRY = {"library": "torchvision", "model": "small", "layers": "[shallow]", "weights": "random", "seed": "0"}


class Described(SmallBackbone):
    """Says that its weights are of this kind and detail."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(name="mine")
        self.weights = {"kind": kind, "detail": detail, "sha256": "0" * 64}

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "weights": self.weights}


def extracted(root: Path, kind: str, detail: str) -> Path:
    small_extraction(root, backbone=Described(kind, detail), output=root / "features/mine")
    return root / "features"


def opened(features: Path, **entry: str) -> tuple[FeatureStore, ...]:
    values = ", ".join(f"{key}: {value}" for key, value in (ENTRY | entry).items())
    params = load_params(PARAMS, [f"backbones.mine={{{values}}}", "backbone=mine", "layer=shallow"])
    return open_features(features, params.sources, params, SmallData())


@pytest.mark.parametrize("detail", ["Small_Weights.V2", "small.V2", "Small_Weights.V2 (altered file)"])
def test_another_tag_is_another_store(tmp_path: Path, detail: str) -> None:
    features = extracted(tmp_path, "imagenet", detail)
    assert opened(features, weights="imagenet", tag="V2")
    assert opened(features, weights="imagenet")  # whatever the library's default is
    with pytest.raises(StoreError) as error:
        opened(features, weights="imagenet", tag="V1")
    says(
        error.value, f"{features}/mine/shallow is stale", detail, "not V1", "`python -m stages extract --backbone mine`"
    )


def test_another_weights_file_is_another_store(tmp_path: Path) -> None:
    features = extracted(tmp_path, "path", "one.pth")
    assert opened(features, weights="weights/one.pth")
    with pytest.raises(StoreError, match=r"stale: its weights are one\.pth, not other\.pth; run"):
        opened(features, weights="weights/other.pth")


def test_what_was_taken_off_a_files_keys_does_not_make_it_another_file(tmp_path: Path) -> None:
    features = extracted(tmp_path, "path", "one.pth (without the prefix 'module.')")
    assert opened(features, weights="weights/one.pth")
    with pytest.raises(StoreError, match=r"stale: its weights are one\.pth \(.*\), not one; run"):
        opened(features, weights="weights/one")


def test_packaged_weights_are_another_store_than_random_ones(tmp_path: Path) -> None:
    features = extracted(tmp_path, "package", "small 1.0")
    assert opened(features, weights="package")
    with pytest.raises(StoreError, match=r"stale: backbone\.weights\.kind is package, not random; "):
        opened(features, weights="random")


@pytest.mark.parametrize(("key", "value", "was"), [("library", "timm", "torchvision"), ("model", "large", "small")])
def test_another_network_under_one_name_is_another_store(tmp_path: Path, key: str, value: str, was: str) -> None:
    features = extracted(tmp_path, "random", "seed 0")
    assert opened(features)
    with pytest.raises(StoreError, match=rf"stale: backbone\.{key} is {was}, not {value}; run"):
        opened(features, **{key: value})
