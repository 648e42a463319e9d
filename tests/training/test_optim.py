"""Muon and the schedules."""

import pytest
import torch
from shipped import build_decoder, build_fusion
from torch import nn

from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.training.optimizers import READOUT_SHARE, Muon, build_optimizers, orthogonalise, rate_factor


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape)
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_orthogonalise_keeps_the_singular_vectors() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 9)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalise(matrix) @ vh.T
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_every_optimizer_solves_a_convolution(name: str) -> None:
    torch.manual_seed(0)
    target, model = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    optimizers = build_optimizers(name, 3e-2, model, None)
    images = torch.randn(8, 3, 10, 10)
    losses = []
    for step in range(200):
        loss = (model(images) - target(images)).square().mean()
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * rate_factor("cosine", step, 200, 0.1)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def test_each_parameter_has_one_optimizer_and_the_linear_part_is_slow() -> None:
    model = nn.ModuleDict({"linear": nn.Conv2d(3, 3, 1), "body": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))})
    optimizers = build_optimizers("muon", 1e-2, model, model["linear"])
    seen = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(seen) == sorted(map(id, model.parameters()))
    assert isinstance(optimizers[0], Muon)
    slow = optimizers[1].param_groups[-1]
    assert slow["lr"] < 1e-2 * READOUT_SHARE
    assert {id(p) for p in slow["params"]} == {id(p) for p in model["linear"].parameters()}


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e-10, 1e10, 1e30])
def test_the_direction_of_a_step_does_not_depend_on_the_size_of_the_gradient(scale: float) -> None:
    """Layers before one that starts at zero get tiny gradients, whose squares underflow."""
    matrix = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(matrix * scale), orthogonalise(matrix), rtol=0, atol=1e-4)
    assert not orthogonalise(matrix * 0).any()


@pytest.mark.parametrize("hidden", [16, 256])
def test_the_last_layers_of_corrections_are_left_to_adam(hidden: int) -> None:
    shapes = [FeatureShape(8, 8, 8), FeatureShape(64, 4, 4), FeatureShape(9, 2, 2)]
    fusion = build_fusion("residual", {"channels": hidden}, shapes)
    muon, *others = build_optimizers("muon", 1e-2, fusion, None)
    by_muon = {id(p) for g in muon.param_groups for p in g["params"]}
    assert not by_muon & {id(weight) for weight in fusion.zero_started()}
    assert len(fusion.zero_started()) == 2
    seen = [id(p) for o in (muon, *others) for g in o.param_groups for p in g["params"]]
    assert sorted(seen) == sorted(map(id, fusion.parameters()))


@pytest.mark.parametrize(
    ("decoder", "by_muon"), [("transposed_conv", False), ("residual", False), ("patch_transformer", True)]
)
def test_a_last_layer_with_few_outputs_is_left_to_adam(decoder: str, by_muon: bool) -> None:
    body = build_decoder(decoder, {}, FeatureShape(64, 4, 4), ImageSize(32, 32))
    muon, *others = build_optimizers("muon", 1e-2, body, None)
    assert isinstance(muon, Muon)
    assert (id(body.output.weight) in {id(p) for g in muon.param_groups for p in g["params"]}) == by_muon
    seen = [id(p) for o in (muon, *others) for g in o.param_groups for p in g["params"]]
    assert sorted(seen) == sorted(map(id, body.parameters()))


@pytest.mark.parametrize(
    ("schedule", "warmup", "step", "factor"),
    [
        ("constant", 0.0, 50, 1.0),
        ("cosine", 0.2, 0, 0.05),
        ("cosine", 0.2, 19, 1.0),
        ("cosine", 0.2, 60, 0.5),
        ("cosine", 0.0, 100, 0.0),
        ("one_cycle", 0.25, 0, 1 / 25),
        ("one_cycle", 0.25, 25, 1.0),
        ("one_cycle", 0.25, 100, 1e-4 / 25),
    ],
)
def test_schedules(schedule: str, warmup: float, step: int, factor: float) -> None:
    assert rate_factor(schedule, step, 100, warmup) == pytest.approx(factor, abs=1e-6)
