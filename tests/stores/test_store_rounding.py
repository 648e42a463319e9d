"""What a stored type costs is measured, shown, and refused above 1 % of a layer's deviation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from small_stores import SmallBackbone, small_extraction, small_params
from typer.testing import CliRunner

from pipeline.core.errors import StoreError
from pipeline.stores.manifest import Manifest, fingerprint
from pipeline.stores.opening import open_store
from stages.__main__ import app


class Changed(SmallBackbone):
    """The features times `unit`, plus `offset`."""

    def __init__(self, unit: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.unit, self.offset = unit, offset

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {layer: values * self.unit + self.offset for layer, values in super().forward(images).items()}


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("float16", 5e-5, 1e-3), ("bfloat16", 5e-4, 8e-3), ("int8", 5e-4, 1e-2)]
)
def test_the_recorded_error_is_that_of_what_is_read(tmp_path: Path, dtype: str, low: float, high: float) -> None:
    small_extraction(tmp_path / "exact", small_params(dtype="float32"))
    small_extraction(tmp_path / "stored", small_params(dtype=dtype))
    rows = np.arange(0, 40, 8)
    exact, stored = (open_store(tmp_path / name / "features/small/deep") for name in ("exact", "stored"))
    error = np.sqrt(np.square(stored.read(rows) - exact.read(rows)).mean((0, 2, 3)))
    assert stored.manifest.rounding is not None
    np.testing.assert_allclose(stored.manifest.rounding, error, rtol=0.05, atol=1e-7)
    assert low < stored.manifest.rounding_share < high
    assert exact.manifest.rounding_share == 0


@pytest.mark.parametrize(
    ("dtype", "change"), [("float16", {"unit": 1e-7}), ("float16", {"offset": 3e3}), ("bfloat16", {"offset": 30.0})]
)
def test_a_type_that_costs_more_than_a_percent_is_refused(tmp_path: Path, dtype: str, change: dict[str, float]) -> None:
    with pytest.raises(
        StoreError, match=rf"^small\.shallow as {dtype} has a rounding error of .*%.*1%; set store.dtype to .*float32$"
    ):
        small_extraction(tmp_path, small_params(dtype=dtype), backbone=Changed(**change))
    assert not (tmp_path / "features").exists()
    assert small_extraction(tmp_path, small_params(dtype="float32"), backbone=Changed(**change))


@pytest.mark.parametrize(
    ("dtype", "change"), [("float16", {"unit": 1e-7}), ("float16", {"offset": 3e3}), ("bfloat16", {"offset": 30.0})]
)
def test_the_first_type_of_the_remedy_is_not_refused_too(tmp_path: Path, dtype: str, change: dict[str, float]) -> None:
    with pytest.raises(StoreError) as refusal:
        small_extraction(tmp_path, small_params(dtype=dtype), backbone=Changed(**change))
    first, *others = str(refusal.value).partition("set store.dtype to ")[2].split(" or ")
    assert others == ["float32"]
    assert small_extraction(tmp_path, small_params(dtype=first), backbone=Changed(**change))


class Far(SmallBackbone):
    """Each feature is in the range of float32, the difference of two is not."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = super().forward(images)
        return {layer: torch.where(values > values.mean(), 3.3e38, -3.3e38) for layer, values in features.items()}


def test_int8_refuses_a_range_that_its_step_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"more than int8 can hold .*; set store.dtype to bfloat16 or float32"):
        small_extraction(tmp_path, small_params(dtype="int8"), backbone=Far())
    assert small_extraction(tmp_path, small_params(dtype="float32"), backbone=Far())


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_layer_that_never_varies_is_not_refused(tmp_path: Path, dtype: str) -> None:
    assert small_extraction(tmp_path, small_params(dtype=dtype), backbone=Changed(unit=0.0, offset=0.1))


class Lost(SmallBackbone):
    """One channel is too small for float16, where its layer is not."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = super().forward(images)
        features["shallow"] = features["shallow"] * torch.tensor([1e-6, *[1.0] * 7])[:, None, None]
        return features


def test_a_lost_channel_is_seen_where_its_layer_hides_it(tmp_path: Path) -> None:
    small_extraction(tmp_path, small_params(dtype="float16"), backbone=Lost(seed=1))
    manifest = open_store(tmp_path / "features/small/shallow").manifest
    assert manifest.std[0] > 0
    assert manifest.rounding_share < 1e-3
    assert manifest.worst_rounding > 0.03
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "features/small/shallow")])
    assert f"{manifest.worst_rounding:.2g}" in result.output.split()


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_squares_that_float32_cannot_hold(tmp_path: Path, unit: float) -> None:
    for name, change in (("usual", Changed()), ("far", Changed(unit))):
        small_extraction(tmp_path / name, small_params(dtype="float32"), backbone=change)
    usual, far = (open_store(tmp_path / name / "features/small/deep").manifest for name in ("usual", "far"))
    np.testing.assert_allclose(far.std, usual.std * unit, rtol=1e-5)


def test_a_store_from_before_it_was_measured_opens(tmp_path: Path) -> None:
    small_extraction(tmp_path)
    path = tmp_path / "features/small/deep"
    content = json.loads((path / "manifest.json").read_bytes())
    del content["rounding"], content["checksum"]
    content["checksum"] = fingerprint(content)
    (path / "manifest.json").write_text(json.dumps(content))
    assert open_store(path).manifest.rounding_share is None
    assert Manifest.read(path).rounding is None
    assert Manifest.read(path).worst_rounding is None


def test_inspect_shows_it(tmp_path: Path) -> None:
    small_extraction(tmp_path)
    share = open_store(tmp_path / "features/small/deep").manifest.rounding_share
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "features/small/deep")])
    assert f"{share:.2g}" in result.output.splitlines()[-2] + result.output.splitlines()[-1]
