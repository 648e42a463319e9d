"""Vectors C×1×1: which decoders take them, and what those can learn of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shipped import build_decoder

from pipeline.core.errors import ShapeError
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.parts.vectors import laid_out

VECTOR, IMAGE = FeatureShape(16, 1, 1), ImageSize(96, 96)


@pytest.mark.parametrize("name", ["linear", "patch_transformer", "residual"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_vector_becomes_a_whole_image(name: str, batch: int) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(name, {}, VECTOR, IMAGE)
    images = decoder(torch.randn(batch, 16, 1, 1))
    assert images.shape == (batch, 3, 96, 96)
    assert images.std() > 0
    decoder.zero_output()
    assert not decoder.synthesize(torch.randn(batch, 16, 1, 1)).any()


@pytest.mark.parametrize("name", ["patch_transformer", "residual"])
def test_two_vectors_learn_two_images(name: str) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(name, {"positions": "sincos"} if name == "patch_transformer" else {}, VECTOR, IMAGE)
    vectors = torch.randn(2, 16, 1, 1)
    images = F.interpolate(torch.rand(2, 3, 6, 6), IMAGE.height)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    errors = []
    for _ in range(60):
        error = F.mse_loss(decoder(vectors), images)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    alike = (images - images.mean(0)).square().mean().item()  # what one image for both leaves
    assert errors[-1] < 0.5 * alike


def test_a_vector_has_no_neighbours() -> None:
    assert build_decoder("linear", {}, VECTOR, IMAGE).output.kernel_size == (1, 1)
    assert build_decoder("linear", {}, FeatureShape(16, 2, 2), IMAGE).output.kernel_size == (3, 3)


def test_decoders_that_double_name_those_that_do_not() -> None:
    with pytest.raises(ShapeError, match="choose decoder linear, patch_transformer or residual"):
        build_decoder("transposed_conv", {}, VECTOR, IMAGE)


def test_what_has_a_grid_stays_on_it() -> None:
    grid = FeatureShape(16, 2, 2)
    assert laid_out(grid, IMAGE, 64) == grid
    assert laid_out(VECTOR, IMAGE, 64) == FeatureShape(64, 3, 3)
    assert laid_out(VECTOR, ImageSize(32, 32), 64) == VECTOR
    assert not any(key.startswith("spread") for key in build_decoder("residual", {}, grid, IMAGE).state_dict())
