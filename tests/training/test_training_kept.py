"""What `train` saves: the best epoch's weights, under another loss, in bfloat16, from features that exceed memory."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from shipped import options
from small_experiment import Experiment, experiment, retrain, validation_scores

from pipeline.core.sources import Inputs
from pipeline.metrics.alexnet import ALEXNET_FILE
from pipeline.models.common.inverter import Blueprint, Inverter


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


def test_the_best_epochs_weights_are_saved_not_the_last(made: Experiment, tmp_path: Path) -> None:
    wild = ("optimizer=adam", "learning_rate=0.5", "schedule=constant", "warmup=0.0", "gradient_clip=0.0", "epochs=5")
    curves = retrain(made, tmp_path, "train.warm_start=none", *(f"protocols.fast.{each}" for each in wild))
    losses = curves["validation_total"]
    assert losses.argmin() < len(losses) - 1, "the last epoch must not be the best, or nothing is tested"
    assert validation_scores(made, tmp_path / "models")["total"] == pytest.approx(losses.min(), rel=1e-4)


def test_epochs_worse_than_the_warm_start_leave_the_linear_solution(made: Experiment, tmp_path: Path) -> None:
    wild = ("optimizer=adam", "learning_rate=0.5", "schedule=constant", "warmup=0.0", "epochs=1")
    curves = retrain(made, tmp_path, *(f"protocols.fast.{each}" for each in wild))
    start = validation_scores(made, tmp_path / "models/linear")["total"]
    assert curves["validation_total"].min() > start
    assert validation_scores(made, tmp_path / "models")["total"] == pytest.approx(start, rel=1e-6)


def test_a_loss_with_lpips_trains_and_leaves_its_network_out_of_the_model(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    alexnet = tmp_path / "hub/checkpoints" / ALEXNET_FILE
    torch.save(torchvision.models.AlexNet().state_dict(), alexnet)
    curves = retrain(made, tmp_path, "loss=hybrid", "protocols.fast.epochs=2", "train.warm_start=none")
    for split in ("train", "validation"):
        expected = 0.5 * curves[f"{split}_mse"] + 0.5 * curves[f"{split}_lpips"]
        np.testing.assert_allclose(curves[f"{split}_total"], expected, rtol=1e-4)
    assert curves["train_lpips"][1] < curves["train_lpips"][0]
    scores = validation_scores(made, tmp_path / "models", {"mse": 0.5, "lpips": 0.5})
    assert scores["total"] == pytest.approx(curves["validation_total"].min(), rel=1e-4)
    description = json.loads((tmp_path / "models/model.json").read_text())
    assert description["loss_weights"] == {"lpips": hashlib.sha256(alexnet.read_bytes()).hexdigest()}
    parts = {name.partition(".")[0] for name in load_file(tmp_path / "models/model.safetensors")}
    assert parts == {"standardise", "decoder"}


def test_bfloat16_trains_float32_weights(made: Experiment, tmp_path: Path) -> None:
    exact = retrain(made, tmp_path / "exact", "train.warm_start=none")
    mixed = retrain(made, tmp_path / "mixed", "train.warm_start=none", "train.precision=bf16")
    assert not mixed["train_total"].equals(exact["train_total"])
    assert mixed["train_total"].iloc[-1] < mixed["train_total"].iloc[0]
    np.testing.assert_allclose(mixed["validation_psnr"], exact["validation_psnr"], atol=1)
    weights = load_file(tmp_path / "mixed/models/model.safetensors")
    learned = {name: tensor for name, tensor in weights.items() if not name.endswith(".mean")}  # statistics: float64
    assert {tensor.dtype for tensor in learned.values() if tensor.is_floating_point()} == {torch.float32}


def test_bfloat16_starts_at_the_linear_solution_of_float32(made: Experiment, tmp_path: Path) -> None:
    nowhere = ("protocols.fast.epochs=1", "protocols.fast.learning_rate=1e-12", "train.precision=bf16")
    (start,) = retrain(made, tmp_path, *nowhere)["validation_psnr"]
    assert start == pytest.approx(validation_scores(made, made.models)["psnr"], abs=1e-3)


def test_under_autocast_the_linear_part_is_that_of_float32() -> None:
    blueprint = Blueprint(
        sources=("vgg16.block1", "resnet34.layer1"), shapes=((8, 16, 16), (6, 8, 8)), image=(32, 32),
        decoder="transposed_conv", decoder_options=options("decoders.transposed_conv"),
        fusion="weighted", fusion_options=options("fusions.weighted"), linear={},
    )  # fmt: skip
    torch.manual_seed(0)
    inverter = Inverter(blueprint).eval()
    inputs = Inputs((torch.randn(2, 8, 16, 16), torch.randn(2, 6, 8, 8)))
    with torch.no_grad():
        exact = inverter(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(inverter(inputs), exact)  # the decoder still gives zero
        torch.nn.init.normal_(inverter.decoder.output.weight)
        exact = inverter(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(inverter(inputs), exact)  # and is what autocast is for


def test_features_that_exceed_memory_give_the_same_linear_solution_and_a_trained_decoder(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.loading.loader.memory_size", lambda: 1)
    retrain(made, tmp_path / "linear", "decoder=linear", "train.resident=never")
    kept, streamed = (load_file(models / "model.safetensors") for models in (made.models, tmp_path / "linear/models"))
    assert all(torch.equal(kept[name], streamed[name]) for name in kept)
    gentle = ("protocols.fast.epochs=3", "protocols.fast.learning_rate=1e-4")
    curves = retrain(made, tmp_path / "decoder", "train.resident=never", *gentle)
    best = validation_scores(made, tmp_path / "decoder/models")["total"]
    assert best == pytest.approx(curves["validation_total"].min(), rel=1e-4)
    start = json.loads((tmp_path / "decoder/models/model.json").read_text())["ridge"]["validation_psnr_of_mean_error"]
    assert curves["validation_psnr"].max() > max(start.values())
