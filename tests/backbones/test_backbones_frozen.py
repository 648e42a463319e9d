"""A backbone never learns, and gradients still flow through it to the image."""

from __future__ import annotations

import pytest
import torch
from known_backbones import CPU, SMALL_VIT, photograph, whole
from torch import Tensor, nn

from pipeline.backbones.backbone import load_backbone


@pytest.mark.parametrize("name", ["resnet34", "vit_small"])
def test_frozen_even_inside_a_module_that_trains(name: str) -> None:
    backbone = whole(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    parent = nn.Sequential(backbone).train()
    backbone.train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    images = photograph().requires_grad_()
    sum(features.square().mean() for features in parent(images).values()).backward()
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())
    after = backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad != 0).float().mean() > 0.5


def test_the_gradient_is_the_right_one() -> None:
    backbone = load_backbone("mine", SMALL_VIT, CPU, ["block0"]).double()
    images = photograph(32, 32).double().requires_grad_()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return backbone(x)["block0"].square().sum()

    (gradient,) = torch.autograd.grad(energy(images), images)
    step = 1e-6
    numeric = (energy(images + step * direction) - energy(images - step * direction)) / (2 * step)
    assert torch.isclose((gradient * direction).sum(), numeric, rtol=1e-5)


def test_a_backbone_loaded_in_inference_mode_still_gives_gradients() -> None:
    with torch.inference_mode():
        backbone = load_backbone("mine", SMALL_VIT, CPU, ["block0"])
    images = photograph(32, 32).requires_grad_()
    backbone(images)["block0"].sum().backward()
    assert images.grad is not None
