"""Tiles and captions: small images enlarged by whole factors, names never cut, a scale beside colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from pipeline.evaluation.pictures import EDGE, _font, _wrapped, enlarged, sheet, with_scale
from pipeline.evaluation.tiles import comparison_tiles


@pytest.mark.parametrize(("edge", "factor"), [(32, 7), (64, 3), (112, 2), (113, 1), (224, 1), (300, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(edge: int, factor: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (edge, edge - 8, 3), np.uint8)
    found = enlarged(picture)
    assert found.shape == (edge * factor, (edge - 8) * factor, 3)
    assert max(found.shape) <= max(EDGE, edge)
    np.testing.assert_array_equal(found[factor // 2 :: factor, factor - 1 :: factor], picture)


@pytest.mark.parametrize("width", [40, 90, 190])
@pytest.mark.parametrize("name", ["n01440764_10026.JPEG", "folder/a long name-of-many parts.png", "x" * 70, "a", ""])
def test_a_name_is_broken_into_lines_and_nothing_of_it_is_cut(name: str, width: int) -> None:
    lines = _wrapped(name, width)
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert all(_font().getlength(line) <= width for line in lines)


def test_two_names_that_differ_in_the_middle_look_different() -> None:
    tile = np.zeros((64, 64, 3), np.uint8)
    one, other = (sheet([[tile]], [[f"photograph_of_the_{k}_of_march_1998.png"]]) for k in ("first", "tenth"))
    assert one.shape != other.shape or (one != other).any()


def test_the_scale_shows_the_colours_of_one_down_to_zero() -> None:
    tile = np.zeros((64, 64, 3), np.uint8)
    found = with_scale(tile, ("1", "0.5", "≤ 0"))
    np.testing.assert_array_equal(found[:, :64], tile)
    bar = found[:, 64 + 6 + 4] / 255
    expected = np.array([colormaps["cividis"](value)[:3] for value in np.linspace(1, 0, 64)])
    np.testing.assert_allclose(bar, expected, atol=0.01)
    assert (found[:, 64 + 6 + 12 + 3 :] < 128).any()  # the labels


def test_only_the_map_of_a_comparison_has_a_scale() -> None:
    target = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    original, reconstruction, error, local = comparison_tiles(target.flip(1), target)
    assert original.shape == reconstruction.shape == error.shape == (192, 192, 3)
    assert local.shape[0] == 192
    assert local.shape[1] > 192 + 12
