"""The networks that see the reconstructions: those of the stores, in their precision, of every source."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import says
from PIL import Image
from small_evaluation import no_lpips_weights, scored  # noqa: F401  (autouse)
from small_experiment import CPU, Experiment, experiment

from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.core.errors import StoreError, WeightsError
from pipeline.core.params import BackboneParams
from pipeline.core.sources import Source
from pipeline.evaluation.report import write_report
from pipeline.evaluation.run import evaluate
from pipeline.models.common.checkpoint import WEIGHTS
from pipeline.refinement.networks import Networks
from pipeline.training.run import train


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("transposed_conv")


def test_without_its_networks_weights_consistency_is_null(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise WeightsError("vgg16-397923af.pth is not in the cache")

    monkeypatch.setattr("pipeline.refinement.networks.load_backbone", absent)
    assert scored(made, tmp_path)["consistency"] is None
    reason = json.loads((tmp_path / "protocol.json").read_text())["not_computed"]["consistency"]
    says(reason, "weights of vgg16", "`python -m stages weights --help`")


def test_another_network_than_the_stores_is_refused(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of the same name and other content, as a file that was replaced."""

    def replaced(name: str, entry: BackboneParams, *rest: Any) -> Backbone:
        return load_backbone(name, entry.model_copy(update={"seed": 1}), *rest)

    monkeypatch.setattr("pipeline.refinement.networks.load_backbone", replaced)
    message = (
        r"block1 was written with torchvision vgg16, random \(seed 0\) weights \w{12}…, params.yaml now gives "
        r"torchvision vgg16, random \(seed 1\) weights \w{12}…; extract again: "
    )
    with pytest.raises(StoreError, match=message):
        scored(made, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_network_runs_in_the_precision_of_the_store_and_without_tf32(made: Experiment) -> None:
    seen: list[tuple[torch.dtype, bool, bool]] = []
    sources, image = (Source("vgg16", "block1"),), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        for precision in ("fp32", "bf16"):
            networks = Networks(made.params, sources, [precision], CPU)
            networks.backbones["vgg16"].register_forward_hook(
                lambda _, __, out: seen.append(
                    (out["block1"].dtype, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
                )
            )
            assert networks(image)[0].dtype == torch.float32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert seen == [(torch.float32, False, False), (torch.bfloat16, False, False)]


@pytest.mark.slow
def test_layers_of_one_network_report_their_weights_and_where_they_weigh(tmp_path: Path) -> None:
    layers = "backbones.vgg16.layers=[block1, block2, block3]"
    made = experiment("residual", "fusion=routed", "layer=block1+block3", layers, "train.warm_start=none")
    result = scored(made, tmp_path)
    assert set(result["fusion"]) == {"vgg16.block1", "vgg16.block3"}
    assert sum(result["fusion"].values()) == pytest.approx(1, abs=1e-5)
    picture = np.asarray(Image.open(tmp_path / "plots/images/routing.png"))
    assert picture.std() > 0
    write_report(tmp_path)
    assert "The weight of each source by position" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_with_a_residual_fusion_training_starts_as_with_the_shallowest_layer_alone(tmp_path: Path) -> None:
    layers = "backbones.vgg16.layers=[block1, block2, block3]"
    alone, several = (
        experiment("residual", layers, *chosen, "protocols.fast.learning_rate=1e-12")  # so it stays at its start
        for chosen in (["layer=block1"], ["layer=block1+block3", "fusion=residual"])
    )
    first, second = scored(alone, tmp_path / "alone"), scored(several, tmp_path / "several")
    assert second["floors"]["linear"] == pytest.approx(first["floors"]["linear"], rel=1e-4)
    assert second["psnr"]["mean"] == pytest.approx(first["psnr"]["mean"], rel=1e-4)


@pytest.mark.slow
def test_layers_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    layers = "backbones.vgg16.layers=[block1, block2, block3]"
    made = experiment("linear", "layer=block3+block1", layers)
    shutil.copytree(made.features, tmp_path / "features", ignore=shutil.ignore_patterns("block2"))
    paths = made.paths(features=tmp_path / "features", models=tmp_path / "models", metrics=tmp_path, work=tmp_path)
    train(made.params, made.data(), paths, CPU)
    assert (tmp_path / "models" / WEIGHTS).read_bytes() == (made.models / WEIGHTS).read_bytes()
    evaluate(made.params, made.data(), paths, CPU)


@pytest.mark.slow
def test_an_ensemble_reports_its_source_weights(tmp_path: Path) -> None:
    ensemble = experiment(
        "residual",
        "fusion=weighted",
        "ensemble.second={backbone: resnet34, layer: layer1}",
        "backbones.resnet34.layers=[layer1]",
        "train.warm_start=none",
    )
    result = scored(ensemble, tmp_path)
    assert set(result["fusion"]) == {"vgg16.block1", "resnet34.layer1"}
    assert sum(result["fusion"].values()) == pytest.approx(1, abs=1e-5)
    assert result["features"]["bits_per_pixel"] == 16 * (64 * 32 * 32 + 64 * 16 * 16) / 64**2
    assert 0 < result["consistency"]["cosine"] <= 1
