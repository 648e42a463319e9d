"""What training is worth: nothing gained is said everywhere, and no model that is not finite is saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from small_comparison import write_experiment
from small_experiment import CPU, PARAMS, Experiment, experiment, retrain, small_settings
from small_stores import tree
from typer.testing import CliRunner

from pipeline.core.errors import CheckpointError, TrainingError
from pipeline.core.params import load_params
from pipeline.evaluation.report import read_json, score_table, write_report
from pipeline.evaluation.run import evaluate
from pipeline.experiments.comparison import compare
from pipeline.models.common.checkpoint import save_model
from pipeline.stores.base import FeatureStore
from pipeline.training import run
from pipeline.training.readout import ReadoutSolution, solve_readout
from stages.__main__ import app

pytestmark = pytest.mark.slow

NOTHING = "Training gained nothing"
DECODERS = ("linear", "transposed_conv")


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


@pytest.mark.parametrize(("rate", "gained"), [("0.9", False), ("1e-4", True)])
def test_a_training_that_gained_nothing_says_so(made: Experiment, tmp_path: Path, rate: str, gained: bool) -> None:
    settings = ("decoders.linear.kernel=1", "protocols.fast.epochs=2", f"protocols.fast.learning_rate={rate}")
    retrain(made, tmp_path, *settings)
    description = read_json(tmp_path / "models/model.json")
    assert (description["best_epoch"] > 0) == gained
    params, metrics = load_params(PARAMS, (*small_settings(made.root), *settings)), tmp_path / "metrics"
    evaluate(params, made.data(), made.paths(models=tmp_path / "models", metrics=metrics), CPU)
    write_report(metrics)
    scores = read_json(metrics / "metrics.json")
    assert scores["decoder"]["best_epoch"] == description["best_epoch"]
    assert (scores["psnr"]["mean"] == scores["floors"]["linear"]["psnr"]) != gained
    for text in (score_table(metrics), (metrics / "report.html").read_text()):
        assert (NOTHING in text) != gained


@pytest.mark.parametrize(("rate", "gained"), [("0.9", False), ("1e-4", True)])
def test_the_command_line_says_so(made: Experiment, tmp_path: Path, rate: str, gained: bool) -> None:
    settings = ("decoders.linear.kernel=1", "protocols.fast.epochs=2", f"protocols.fast.learning_rate={rate}")
    (tmp_path / "features").symlink_to(made.features)
    (tmp_path / "data").symlink_to(made.root / "data")
    places = {"--root": tmp_path, "--params": PARAMS, "--device": "cpu"}
    arguments = [str(part) for pair in places.items() for part in pair]
    overrides = [part for each in (*small_settings(made.root), *settings) for part in ("--set", each)]
    result = CliRunner().invoke(app, ["train", *arguments, *overrides], catch_exceptions=False)
    assert result.exit_code == 0
    said = [line for line in result.output.splitlines() if NOTHING in line]
    assert len(said) == (not gained)
    assert all("protocols.*.learning_rate" in line and "decoder: linear" in line for line in said)  # the remedies


def test_a_closed_form_model_has_no_best_epoch(made: Experiment) -> None:
    assert "best_epoch" not in read_json(made.models / "model.json")


def test_the_leaderboard_marks_what_is_its_linear_start(tmp_path: Path) -> None:
    names = [str(write_experiment(tmp_path / name, shift)) for name, shift in (("gained", 1.0), ("not", 0.5))]
    for name, epoch in zip(names, (3, 0), strict=True):
        path = Path(name) / "metrics.json"
        scores = read_json(path)
        scores["decoder"]["best_epoch"] = epoch
        path.write_text(json.dumps(scores))
    lines = compare(names, tmp_path / "out").splitlines()
    assert ["= linear start" in line for line in lines[2:4]] == [False, True]
    assert [line.partition(": ")[0] for line in lines if NOTHING in line] == [names[1]]
    assert pd.read_csv(tmp_path / "out/leaderboard.csv")["setting"].str.contains("= linear start").tolist() == [0, 1]
    assert NOTHING not in compare(names[:1], tmp_path / "out")


def _fill(monkeypatch: pytest.MonkeyPatch, value: float, std: float = 0.0) -> None:
    """Every feature is `value`."""

    def read_into(self: FeatureStore, rows: NDArray[np.int64], out: NDArray[np.generic]) -> None:
        out[...] = value

    monkeypatch.setattr(FeatureStore, "read_into", read_into)
    monkeypatch.setattr(FeatureStore, "mean", property(lambda self: np.full(self.shape.channels, value, np.float32)))
    monkeypatch.setattr(FeatureStore, "std", property(lambda self: np.full(self.shape.channels, std, np.float32)))


@pytest.mark.parametrize("value", [0.0, 3.7])
@pytest.mark.parametrize(
    ("decoder", "warm"), [("linear", "none"), ("transposed_conv", "linear"), ("transposed_conv", "none")]
)
def test_a_dead_layer_gives_a_finite_model(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, decoder: str, warm: str
) -> None:
    _fill(monkeypatch, value)
    settings = (f"decoder={decoder}", f"train.warm_start={warm}", "protocols.fast.epochs=1")
    retrain(made, tmp_path, *settings)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "models/model.safetensors").values())
    params, metrics = load_params(PARAMS, (*small_settings(made.root), *settings)), tmp_path / "metrics"
    evaluate(params, made.data(), made.paths(models=tmp_path / "models", metrics=metrics), CPU)
    write_report(metrics)
    scores = read_json(metrics / "metrics.json")
    assert all(np.isfinite(scores[name]["mean"]) for name in ("psnr", "ssim"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_features_that_are_not_finite_are_named_and_no_learning_rate(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    _fill(monkeypatch, float("nan"))
    with pytest.raises(TrainingError, match=r"features are not finite.*extract them again") as refusal:
        retrain(made, tmp_path, f"decoder={decoder}", "protocols.fast.epochs=1")
    assert "learning_rate" not in str(refusal.value)
    assert not list(tmp_path.rglob("model.json"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_model_that_is_not_finite_is_saved(tmp_path: Path, value: float) -> None:
    tensors = {"good": torch.ones(2), "linear.output.bias": torch.tensor([1.0, value])}
    with pytest.raises(CheckpointError, match=r"linear.output.bias holds numbers that are not finite.*extract again"):
        save_model(tmp_path / "models", tensors, {"blueprint": {}})
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_refused_leaves_the_one_before(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain(made, tmp_path, "decoder=linear")
    before = tree(tmp_path / "models")

    def not_finite(*arguments: Any) -> ReadoutSolution:
        solution = solve_readout(*arguments)
        solution.joint.weight.fill_(float("nan"))
        return solution

    monkeypatch.setattr(run, "solve_readout", not_finite)
    shutil.rmtree(tmp_path / "work")  # where it says that this training is finished
    with pytest.raises(CheckpointError, match="not finite"):
        retrain(made, tmp_path, "decoder=linear")
    assert tree(tmp_path / "models") == before
