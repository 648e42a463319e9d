"""Training on a small real experiment: what the saved model is, and that an interruption changes nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from project import Project, small_project
from safetensors.torch import load_file
from shipped import options

from pipeline.core.errors import CheckpointError, ShapeError
from pipeline.core.sources import Inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import SplitFeed
from pipeline.models.common.inverter import Blueprint, Inverter, load_inverter
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = small_project(tmp_path_factory.mktemp("training"))
    project.set({"prepare.views": 3, "protocols.fast.epochs": 4})
    for backbone in ("vgg16", "resnet34"):
        project.set({"backbone": backbone, "layer": {"vgg16": "block1", "resnet34": "layer1"}[backbone]})
        stages = ("prepare", "prior", "extract") if backbone == "vgg16" else ("extract",)
        for stage in stages:
            project.run("python", "-m", "stages", stage)
    project.set({"backbone": "vgg16", "layer": "block1"})
    return project


def _train(project: Project, name: str, *overrides: str) -> Path:
    options = [part for override in overrides for part in ("--set", override)]
    out = project.root / "out" / name
    project.run("python", "-m", "stages", "train", "--models", str(out), "--metrics", str(out), *options)
    return out


def _kill(project: Project, name: str) -> Path:
    """Start a training and kill it after its first epoch; the state that it leaves."""
    out = project.root / "out" / name
    command = ("python", "-m", "stages", "train", "--models", str(out), "--metrics", str(out))
    unfinished = project.root / ".work/train"
    project.kill(*command, when=lambda: bool(list(unfinished.glob("*/state.pt"))))
    assert not (out / "model.json").exists()
    (state,) = unfinished.glob("*/state.pt")
    return state


def _edit(project: Project, path: str) -> None:
    with (project.root / path).open("a") as file:
        file.write("\nEDITED = True\n")


def test_a_killed_training_ends_with_the_same_bytes_whatever_is_edited_elsewhere(project: Project) -> None:
    undisturbed = _train(project, "undisturbed")
    _kill(project, "killed")
    _edit(project, "pipeline/evaluation/scoring.py")
    out = _train(project, "killed")
    for name in ("model.safetensors", "model.json", "linear/model.safetensors"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert not list((project.root / ".work/train").glob("*")), "finished work is cleared away"


def test_a_killed_training_is_not_continued_by_another_fitter(project: Project) -> None:
    state = _kill(project, "other")
    _edit(project, "pipeline/training/fitter.py")
    _train(project, "other")
    assert state.exists(), "the work of the old code is left alone"
    shutil.rmtree(state.parent)


def test_the_order_of_sources_changes_nothing(project: Project) -> None:
    pair = {"vgg16": "block1", "resnet34": "layer1"}

    def ensemble(first: str, second: str) -> tuple[str, ...]:
        slot = f"ensemble.second={{backbone: {second}, layer: {pair[second]}}}"
        return (
            "fusion=attention",
            "fusions.attention.channels=16",
            "protocols.fast.epochs=1",
            f"backbone={first}",
            f"layer={pair[first]}",
            slot,
        )

    one = _train(project, "one", *ensemble("vgg16", "resnet34"))
    other = _train(project, "other", *ensemble("resnet34", "vgg16"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_linear_is_the_closed_form_solution(project: Project) -> None:
    out = _train(project, "linear", "decoder=linear", "decoders.linear.kernel=1")
    data, store = PreparedData.open(project.root / "data/prepared"), open_store(project.root / "features/vgg16/block1")
    with CachedFeatures(data, Inputs((store,)), CPU) as cached:
        rows = data.rows("train")
        (batch,) = cached.batches([rows])
    mean, std = (torch.from_numpy(each)[:, None, None] for each in (store.mean, store.std))
    standardised = (batch.inputs.features[0] - mean) / std.clamp_min(1e-6)
    live = torch.from_numpy(store.std) > 1e-6
    x = standardised[:, live].permute(0, 2, 3, 1).reshape(-1, int(live.sum())).double().numpy()
    x = np.column_stack([x, np.ones(len(x))])
    y = torch.nn.functional.pixel_unshuffle(batch.targets, 2).permute(0, 2, 3, 1).reshape(-1, 12).double().numpy()
    expected = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    image = load_inverter(out, CPU)(batch.inputs)
    predicted = torch.nn.functional.pixel_unshuffle(image, 2).permute(0, 2, 3, 1).reshape(-1, 12).detach().numpy()
    strength = json.loads((out / "model.json").read_text())["ridge"]["strength"]
    assert strength <= 1e-2
    assert np.abs(predicted - expected.clip(0, 1)).mean() < 5e-3


def test_training_starts_at_the_linear_solution(project: Project) -> None:
    out = _train(project, "started", "protocols.fast.epochs=1", "protocols.fast.learning_rate=1e-12")
    whole, linear = load_file(out / "model.safetensors"), load_file(out / "linear/model.safetensors")
    torch.testing.assert_close(whole["linear.output.weight"], linear["linear.output.weight"])
    assert whole["decoder.output.weight"].abs().max() < 1e-6
    curve = pd.read_csv(out / "training.csv")
    closed = pd.read_csv(_train(project, "closed", "decoder=linear") / "training.csv")
    assert curve["validation_psnr"][0] == pytest.approx(closed["validation_psnr"][0], abs=0.01)


def test_curves_have_every_column(project: Project) -> None:
    curve = pd.read_csv(_train(project, "curves", "loss=ssim_l1") / "training.csv")
    assert list(curve["epoch"]) == [1, 2, 3, 4]
    assert {"train_l1", "train_ssim", "train_total", "validation_total", "validation_psnr"} <= set(curve)
    assert "learning_rate" in curve
    speed = pd.read_csv(project.root / "out/curves/training_speed.csv")
    assert list(speed) == ["epoch", "samples_per_second", "waiting_share"]
    assert len(speed) == len(curve)


def test_an_epoch_visits_every_image_once_in_changing_views(project: Project) -> None:
    data, store = PreparedData.open(project.root / "data/prepared"), open_store(project.root / "features/vgg16/block2")
    with CachedFeatures(data, Inputs((store,)), CPU) as cached:
        feed = SplitFeed(data, cached, 4, seed=1)
        epochs = [np.concatenate([batch.rows for batch in feed.training(epoch)]) for epoch in range(4)]
        again = np.concatenate([batch.rows for batch in feed.training(2)])
    train = set(data.image[data.rows("train")])
    for rows in epochs:
        assert sorted(data.image[rows]) == sorted(train)
    assert len({tuple(rows) for rows in epochs}) == 4
    assert len({row for rows in epochs for row in rows}) > len(train)
    assert np.array_equal(again, epochs[2])


def test_a_model_with_other_weights_than_its_description(project: Project) -> None:
    out = _train(project, "broken", "decoder=linear")
    description = json.loads((out / "model.json").read_text())
    assert description["blueprint"]["kernels"] == [3]  # what kernel: null was
    description["blueprint"]["kernels"] = [5]
    (out / "model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="do not fit the model described there"):
        load_inverter(out, CPU)
    (out / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="train again: python -m stages train"):
        load_inverter(out, CPU)


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_inverter(tmp_path, CPU)
    assert str(caught.value) == f"{tmp_path / 'model.json'} is missing; train first: python -m stages train"


def test_a_fusion_without_a_second_source() -> None:
    blueprint = Blueprint(
        sources=("vgg16.block1",), shapes=((64, 32, 32),), image=(64, 64), decoder="transposed_conv",
        decoder_options=options("decoders.transposed_conv"),
        fusion="weighted", fusion_options=options("fusions.weighted"), linear=None,
    )  # fmt: skip
    with pytest.raises(ShapeError, match="combines two or more sources"):
        Inverter(blueprint)
