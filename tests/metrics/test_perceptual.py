"""`features`, the distance in layers of a frozen network: its formula and units, its gradient, and who judges whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from known_backbones import photograph
from torch import Tensor

from pipeline.backbones.backbone import load_backbone
from pipeline.core.errors import ParamsError
from pipeline.core.params import Params, load_params
from pipeline.core.sources import ImageSize
from pipeline.evaluation.conventions import differences, identity
from pipeline.evaluation.report import _judged, _warnings
from pipeline.metrics.perceptual import FAINT, FeatureDistance, _photographs, load_distance
from pipeline.metrics.scores import score
from pipeline.training.losses import Loss
from stages.loading import load_checked

ROOT = Path(__file__).parents[2]
SIZE = ImageSize(64, 64)
CPU = torch.device("cpu")
LAYERS = "perceptual.loss.layers=[stage1, stage3]"


def chosen(*overrides: str) -> Params:
    return load_params(ROOT / "params.yaml", ["prepare.crop=64", *overrides])


def distance(*overrides: str) -> FeatureDistance:
    params = chosen(LAYERS, *overrides)
    return load_distance(params.perceptual.loss, params)


def pair() -> tuple[Tensor, Tensor]:
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    target = photograph(64, 64, count=2)
    return (target + 0.05 * noise).clamp(0, 1), target


@torch.inference_mode()
def test_it_is_the_mean_over_layers_of_squares_in_units_of_each_channel() -> None:
    measure, (x, y) = distance(), pair()
    found, wanted = measure.backbone(x), measure.backbone(y)
    layers = []
    for layer, own in measure.backbone(_photographs(SIZE)).items():
        variance = own.double().var((0, 2, 3), correction=0)
        variance = variance.clamp(min=FAINT * variance.mean())
        layers.append(((found[layer] - wanted[layer]).double().square().mean((2, 3)) / variance).mean(1))
    torch.testing.assert_close(measure(x, y).double(), torch.stack(layers).mean(0), rtol=1e-4, atol=0)
    assert not measure(y, y).any()
    assert len(layers) == 2


@torch.inference_mode()
def test_two_photographs_are_about_two_apart_in_every_layer() -> None:
    images = _photographs(SIZE)
    for layer in ("stage1", "stage2", "stage3"):
        found = distance(f"perceptual.loss.layers=[{layer}]")(images[1:], images[1:].roll(5, dims=0)).mean()
        assert 1 < found < 4, layer


@pytest.mark.parametrize("power", [-40, -12, 12])
def test_no_unit_of_a_layer_matters(power: int) -> None:
    params = chosen()
    backbone = load_backbone("efficientnet_lite0", params.backbone_params("efficientnet_lite0"), CPU, ["stage1"])
    x, y = pair()
    x.requires_grad_()

    def now() -> tuple[Tensor, Tensor]:
        found = FeatureDistance(backbone, SIZE)(x, y)
        return found.detach(), torch.autograd.grad(found.sum(), x)[0]

    before = now()
    norm = backbone.network.model.blocks[0][0].bn2  # the layer's last module
    with torch.no_grad():
        norm.weight.mul_(2.0**power)
        norm.bias.mul_(2.0**power)
    for own, wanted in zip(now(), before, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def test_a_layer_that_tells_nothing_apart_is_refused_by_name() -> None:
    params = chosen()
    backbone = load_backbone("efficientnet_lite0", params.backbone_params("efficientnet_lite0"), CPU, ["stage1"])
    with torch.no_grad():
        backbone.network.model.blocks[0][0].bn2.weight.zero_()
    with pytest.raises(ParamsError, match=r"efficientnet_lite0\.stage1 tells .* perceptual\.loss\.layers"):
        FeatureDistance(backbone, SIZE)


def test_the_loss_has_a_gradient_and_leaves_the_network_alone() -> None:
    params = chosen("loss=perceptual")
    loss = Loss(params.loss_terms, params).train()
    x, y = pair()
    x.requires_grad_()
    values = loss(x, y)
    values["features"].backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).float().mean() > 0.5
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss._terms["features"].distance.backbone.modules())
    expected = load_distance(params.perceptual.loss, params)(*pair()).mean()
    torch.testing.assert_close(values["features"].detach(), expected)
    network = loss.networks["features"]
    assert network["layers"] == ["stage1", "stage2", "stage3"]
    assert network["backbone"]["weights"]["kind"] == "package"
    assert loss.weights_sha256 == {"features": network["backbone"]["weights"]["sha256"]}
    assert Loss({"mse": 1.0}).networks == {}


def test_descent_on_the_loss_alone_comes_nearer_to_the_target_by_another_network() -> None:
    """What one network taught, another one confirms."""
    params = chosen()
    teacher = load_distance(params.perceptual.loss, params)
    judge = load_distance(params.perceptual.metric, params)
    x, y = pair()
    before = judge(x, y)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        teacher(x, y).sum().backward()
        optimizer.step()
    assert (judge(x.detach().clamp(0, 1), y) < 0.7 * before).all()
    assert teacher.describe()["backbone"]["model"] != judge.describe()["backbone"]["model"]


def test_the_metric_is_there_only_with_a_judge() -> None:
    x, y = pair()
    assert "features" not in score(x, y)
    with torch.inference_mode():
        judged = score(x, y, judge=distance())["features"]
    assert judged.dtype == torch.float64
    assert judged.shape == (2,)
    assert (judged > 0).all()


def protocol(loss: FeatureDistance | None, metric: FeatureDistance | None) -> dict[str, Any]:
    networks = {"loss": loss, "metric": metric}
    perceptual = {name: network.describe() for name, network in networks.items() if network is not None}
    return {"conventions": {}, "test_images": 2, "test_pixels": "0", "lpips_weights": None, "perceptual": perceptual}


def test_a_network_that_judges_what_it_taught_is_named() -> None:
    other = distance("perceptual.loss.backbone=efficientnet_lite1")
    (own,) = _warnings(protocol(distance(), distance("perceptual.loss.layers=[stage2]")))  # other layers do not help
    assert "efficientnet_lite0 (stage2)" in own
    assert "perceptual.metric.backbone" in own
    for loss, metric in ((distance(), other), (None, distance()), (distance(), None)):
        assert not list(_warnings(protocol(loss, metric)))


def test_the_shipped_judge_is_another_network_than_the_shipped_teacher() -> None:
    params = chosen("loss=perceptual")
    networks = {name: load_distance(each, params) for name, each in params.distances.items()}
    assert set(networks) == {"loss", "metric"}
    assert not list(_warnings(protocol(**networks)))


def test_the_score_names_its_judge_and_is_compared_under_one_alone() -> None:
    scores = {"features": {"mean": 0.25, "low": 0.2, "high": 0.3, "bits_per_pixel": 8.0}}
    judged, trained = _judged(scores, protocol(distance("perceptual.loss.backbone=efficientnet_lite1"), distance()))
    assert "0.2500" in judged
    assert "efficientnet_lite0 (stage1, stage3) with package weights" in judged
    assert "efficientnet_lite1 (stage1, stage3) with package weights" in trained
    first, second = protocol(None, distance()), protocol(None, distance("perceptual.loss.layers=[stage2]"))
    assert identity(first) == identity(second)  # their PSNR may be compared
    assert not differences(first, second, "psnr")
    (reason,) = differences(first, second, "features")
    assert "efficientnet_lite0 (stage1, stage3) and by efficientnet_lite0 (stage2)" in reason
    (reason,) = differences(first, protocol(None, None), "features")
    assert "no network" in reason
    assert not differences(first, first, "features")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["perceptual.metric.backbone=lite9"], r"perceptual\.metric\.backbone = 'lite9' is unknown"),
        (["perceptual.loss.layers=[]"], r"perceptual\.loss\.layers is empty; list layers of efficientnet_lite0"),
        (
            ["loss=perceptual", "perceptual.loss.backbone=none"],
            r"loss = 'perceptual' has the term features, and no network; set perceptual\.loss\.backbone",
        ),
    ],
)
def test_mistakes_are_told_by_params_alone(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ParamsError, match=sentence):
        chosen(*overrides)


def test_a_distance_may_be_in_layers_that_are_not_stored() -> None:
    stored = "backbones.efficientnet_lite0.layers=[stage1]"
    load_checked(ROOT / "params.yaml", ["loss=perceptual", stored])
    with pytest.raises(ParamsError, match=r"perceptual\.loss\.layers = 'stage9' is unknown .*stage5"):
        load_checked(ROOT / "params.yaml", ["loss=perceptual", stored, "perceptual.loss.layers=[stage9]"])


def test_a_network_is_checked_only_where_it_is_used() -> None:
    wrong = (
        "backbones.efficientnet_lite2.layers=[stage1, stage2, stage3, stage7]",
        "perceptual.loss.backbone=efficientnet_lite2",
    )
    assert set(chosen("perceptual.metric.backbone=none").distances) == set()
    load_checked(ROOT / "params.yaml", wrong)
    with pytest.raises(ParamsError, match=r"efficientnet_lite2\.layers = 'stage7' is unknown"):
        load_checked(ROOT / "params.yaml", [*wrong, "loss=perceptual"])


def test_training_without_the_term_loads_no_network_library() -> None:
    program = """
import sys
from pipeline.metrics.table import all_metrics
from pipeline.training import run
assert "features" in all_metrics()
run.Loss({"mse": 1.0, "ssim": 1.0})
print(sorted({"timm", "torchvision", "skimage", "pipeline.backbones.backbone"} & {*sys.modules}))
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
