"""The patch transformer: a set of tokens in, the pixels under each out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shipped import build_decoder

from pipeline.core.errors import ShapeError
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import Decoder

SHAPE, IMAGE = FeatureShape(16, 3, 4), ImageSize(15, 20)  # ratio 5


def built(**options: object) -> Decoder:
    torch.manual_seed(0)
    return build_decoder("patch_transformer", options, SHAPE, IMAGE).eval()


def patches(image: torch.Tensor) -> torch.Tensor:
    """(1, 3, 15, 20) to (12, 75), a patch a token."""
    return F.pixel_unshuffle(image, 5).flatten(2)[0].T


def test_moving_a_token_moves_its_patch() -> None:
    features, order = torch.randn(1, 16, 3, 4), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = features.flatten(2)[..., order].unflatten(2, (3, 4))
    for positions, same in (("none", True), ("sincos", False)):
        decoder = built(positions=positions)
        with torch.no_grad():
            before, after = patches(decoder.synthesize(features))[order], patches(decoder.synthesize(moved))
        assert torch.allclose(before, after, atol=1e-5) is same


def test_a_patch_sees_the_other_tokens() -> None:
    features = torch.randn(1, 16, 3, 4, requires_grad=True)
    patches(built().synthesize(features))[0].square().sum().backward()
    assert features.grad is not None
    assert (features.grad.flatten(2)[0].abs().sum(0) > 0).all()


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ShapeError, match=r"^decoder patch_transformer: 16 channels do not divide into the 3 parts"):
        built(heads=3)
