"""The same experiment on each device: what is extracted, solved, trained, scored and refined there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from devices import DEVICES, needs_gpu
from safetensors.torch import load_file
from shipped import extract_params
from small_experiment import VIT, Experiment, experiment, retrain, validation_scores
from small_stores import SmallBackbone, SmallData, small_extraction, tree
from toy_training import ToyFeed, toy_fitter

from pipeline.core.errors import TrainingError
from pipeline.core.params import EvaluateParams
from pipeline.evaluation.run import evaluate
from pipeline.extraction.link import Link
from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.fusion import FUSIONS
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.slow

LINEAR = ("decoder=linear",)


@pytest.mark.parametrize("device", DEVICES)
def test_the_linear_decoder_is_solved_alike(device: str, tmp_path: Path) -> None:
    made = experiment("linear")
    retrain(made, tmp_path, *LINEAR, device=device)
    expected, found = (load_file(models / "model.safetensors") for models in (made.models, tmp_path / "models"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("resident", ["never", "always"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
@pytest.mark.parametrize("device", DEVICES)
def test_training_ends_as_well(device: str, precision: str, resident: str, tmp_path: Path) -> None:
    made = experiment("transposed_conv")
    settings = ("decoder=transposed_conv", f"train.precision={precision}", f"train.resident={resident}")
    curves = retrain(made, tmp_path, *settings, device=device)
    assert len(curves) == 2
    expected = validation_scores(made, made.models)["psnr"]
    assert validation_scores(made, tmp_path / "models")["psnr"] == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("decoder", DECODERS.names())
@pytest.mark.parametrize("device", DEVICES)
def test_every_decoder_trains(device: str, decoder: str, tmp_path: Path) -> None:
    made = experiment("linear", *VIT)
    curves = retrain(made, tmp_path, *VIT, f"decoder={decoder}", "protocols.fast.epochs=1", device=device)
    assert np.isfinite(curves["validation_psnr"]).all()


@pytest.mark.parametrize("fusion", [name for name in FUSIONS.names() if name != "none"])
@pytest.mark.parametrize("device", DEVICES)
def test_every_fusion_trains(device: str, fusion: str, tmp_path: Path) -> None:
    second = "ensemble.second={backbone: vit_small, layer: block0}"
    sources = (second, "backbones.vit_small.layers=[block0]")
    made = experiment("linear", "fusion=concat", *sources)
    settings = (f"fusion={fusion}", f"fusions.{fusion}.channels=16", "protocols.fast.epochs=1", *sources)
    curves = retrain(made, tmp_path, "decoder=residual", *settings, device=device)
    assert np.isfinite(curves["validation_psnr"]).all()


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam"}, {"optimizer": "adamw", "ema": 0.9}])
@pytest.mark.parametrize("device", DEVICES)
def test_an_interrupted_run_goes_on(device: str, changes: dict[str, object], tmp_path: Path) -> None:
    undisturbed = toy_fitter(device=device, **changes)
    undisturbed.run(ToyFeed(device=device), tmp_path / "a", "toy")
    with pytest.raises(KeyboardInterrupt):
        toy_fitter(device=device, **changes).run(ToyFeed(3, device=device), tmp_path / "b", "toy")
    resumed = toy_fitter(device=device, **changes)
    resumed.run(ToyFeed(device=device), tmp_path / "b", "toy")
    for name, tensor in undisturbed.best.items():
        assert tensor.device.type == device
        torch.testing.assert_close(resumed.best[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_loss_that_is_not_finite_stops(device: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training loss became nan in epoch 2, step 2, at learning rate"):
        toy_fitter(device=device).run(ToyFeed(nan_from=(1, 1), device=device), tmp_path / "state", "toy")


@pytest.mark.parametrize(
    ("refiner", "made"),
    [
        ("lbfgs", ("linear",)),
        ("map", ("linear",)),
        ("block_inverse", ("linear", *VIT)),
    ],
    ids=["lbfgs", "map", "block_inverse"],
)
@pytest.mark.parametrize("device", DEVICES)
def test_refined_images_are_alike(device: str, refiner: str, made: tuple[str, ...], tmp_path: Path) -> None:
    trained = experiment(*made)
    expected, found = (_refined(trained, refiner, where, tmp_path / where) for where in ("cpu", device))
    assert found == pytest.approx(expected, abs=0.3)


def _refined(made: Experiment, refiner: str, device: str, output: Path) -> list[float]:
    """PSNR of the refined images."""
    changed = {"refine": refiner, "refine_budget": 4, "refine_images": 3}
    settings = EvaluateParams.model_validate({**made.params.evaluate.model_dump(), **changed})
    params = made.params.model_copy(update={"evaluate": settings})
    evaluate(params, made.data(), made.paths(metrics=output), torch.device(device))
    return pd.read_csv(output / "per_image.csv")["refined_psnr"].dropna().tolist()


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("device", DEVICES)
def test_no_copy_overtakes_what_it_needs(device: str, batch: int, tmp_path: Path) -> None:
    """Many small batches: photographs and features of different batches are on their way at the same time."""
    data = SmallData(rows=700)
    for where in ("cpu", device):
        small_extraction(
            tmp_path / where, data=data, settings=extract_params(batch_size=batch), device=torch.device(where)
        )
    for layer in ("shallow", "deep"):
        expected, found = (
            open_store(tmp_path / where / "features/small" / layer).read(np.arange(700)) for where in ("cpu", device)
        )
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


@needs_gpu
def test_photographs_that_found_no_room_go_up_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_extraction(tmp_path / "roomy", device=torch.device("cuda"))
    monkeypatch.setattr(Link, "upload", lambda self, values: values)
    small_extraction(tmp_path / "tight", device=torch.device("cuda"))
    assert tree(tmp_path / "tight") == tree(tmp_path / "roomy")


@needs_gpu
def test_real_exhaustion_of_memory_halves_the_batch(tmp_path: Path) -> None:
    """The device's own error, from a network that asks for more than there is when it gets more than two images."""

    class Greedy(SmallBackbone):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            if len(images) > 2:
                torch.empty(torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda")
            return super().forward(images)

    for name, network in (("roomy", SmallBackbone()), ("tight", Greedy())):
        small_extraction(
            tmp_path / name, backbone=network, settings=extract_params(batch_size=9), device=torch.device("cuda")
        )
    for layer in ("shallow", "deep"):
        roomy, tight = (
            open_store(tmp_path / name / "features/small" / layer).read(np.arange(40)) for name in ("roomy", "tight")
        )
        np.testing.assert_allclose(tight, roomy, rtol=2e-3, atol=1e-3)
