"""Photographs straight from their files: the pixels that the test split would have, or every bad file by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shipped import prepare_params
from small_experiment import experiment

from pipeline.core.errors import DataError
from pipeline.data.photographs import open_photographs


def test_photographs_of_the_test_split_are_cut_as_they_were_prepared() -> None:
    made = experiment("linear")
    data = made.data()
    rows = data.rows("test")
    root = Path(made.params.dataset_options["root"])
    found = open_photographs([root / data.image_ids[image] for image in data.image[rows]], made.params.prepare)
    assert (found.dtype.is_floating_point, found.shape[1]) == (True, 3)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), data.crops(rows) / 255, rtol=1e-6)


def test_every_bad_file_is_named_with_its_reason(tmp_path: Path) -> None:
    Image.new("RGB", (90, 90)).save(tmp_path / "good.png")
    Image.new("L", (90, 90)).save(tmp_path / "grey.png")
    with pytest.raises(DataError) as refusal:
        open_photographs([tmp_path / name for name in ("good.png", "grey.png", "none.png")], prepare_params())
    first, *others = str(refusal.value).splitlines()
    assert first.startswith("2 of 3 photographs cannot be used")
    assert [line.strip().partition(": ")[0] for line in others] == [str(tmp_path / n) for n in ("grey.png", "none.png")]


def test_no_photograph_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no photographs were given"):
        open_photographs([], prepare_params())
