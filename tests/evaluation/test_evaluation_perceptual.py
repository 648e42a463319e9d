"""A decoder trained by a loss with the term `features`, and judged by another network: through train and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from small_evaluation import no_lpips_weights  # noqa: F401
from small_experiment import CPU, PARAMS, Experiment, experiment, retrain, small_settings

from pipeline.core.params import load_params
from pipeline.evaluation.report import score_table, write_report
from pipeline.evaluation.run import evaluate

CHOSEN = (
    "decoder=transposed_conv",
    "loss=perceptual",
    "losses.perceptual={features: 1.0}",
    "protocols.fast.epochs=4",
    "train.warm_start=none",
    "evaluate.refine=lbfgs",
    "evaluate.refine_budget=2",
    "evaluate.refine_images=2",
)
LITE0 = "efficientnet_lite0 (stage1, stage2, stage3)"
LITE1 = "efficientnet_lite1 (stage1)"
JUDGE = "perceptual.metric={backbone: efficientnet_lite1, layers: [stage1]}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("perceptual")
    made = experiment()
    return made, folder, retrain(made, folder, *CHOSEN)


def scored(made: Experiment, folder: Path, output: Path, *overrides: str) -> dict:
    params = load_params(PARAMS, (*small_settings(made.root), *CHOSEN, *overrides))
    return evaluate(params, made.data(), made.paths(models=folder / "models", metrics=output), CPU)


def test_the_term_falls(trained: tuple[Experiment, Path, pd.DataFrame]) -> None:
    curves = trained[2]
    assert curves["train_features"].iloc[-1] < 0.7 * curves["train_features"].iloc[0]
    assert curves["validation_total"].equals(curves["validation_features"])


def test_the_metric_is_written_with_the_networks_behind_it(
    trained: tuple[Experiment, Path, pd.DataFrame], tmp_path: Path
) -> None:
    made, folder, _ = trained
    metrics = scored(made, folder, tmp_path, JUDGE)
    assert metrics["perceptual"] == {"loss": LITE0, "metric": LITE1}
    columns = pd.read_csv(tmp_path / "per_image.csv")["features"]
    assert metrics["features"]["mean"] == pytest.approx(columns.mean(), rel=1e-4)
    assert metrics["features"]["low"] <= metrics["features"]["mean"] <= metrics["features"]["high"]
    assert metrics["features"]["bits_per_pixel"] > 0  # of the stored features, as ever
    assert metrics["refined"]["features"]["mean"] > 0
    networks = json.loads((tmp_path / "protocol.json").read_text())["perceptual"]
    assert networks["metric"]["layers"] == ["stage1"]
    assert networks["loss"]["backbone"]["weights"]["sha256"] != networks["metric"]["backbone"]["weights"]["sha256"]
    write_report(tmp_path)
    for text in (score_table(tmp_path), (tmp_path / "report.html").read_text()):
        assert f"{metrics['features']['mean']:.4f}" in text
        assert LITE0 in text
        assert LITE1 in text
        assert "perceptual.metric.backbone" not in text


def test_a_decoder_that_its_teacher_judges_is_said_to_be(
    trained: tuple[Experiment, Path, pd.DataFrame], tmp_path: Path
) -> None:
    made, folder, _ = trained
    metrics = scored(made, folder, tmp_path, "perceptual.metric.backbone=efficientnet_lite0")
    assert metrics["perceptual"]["loss"] == metrics["perceptual"]["metric"] == LITE0
    assert "warning: features is judged by efficientnet_lite0" in score_table(tmp_path)


def test_without_a_judge_there_is_no_such_metric(
    trained: tuple[Experiment, Path, pd.DataFrame], tmp_path: Path
) -> None:
    made, folder, _ = trained
    metrics = scored(made, folder, tmp_path, "evaluate.refine=none")
    assert metrics["perceptual"] == {"loss": LITE0}
    assert "mean" not in metrics["features"]
    assert "features" not in pd.read_csv(tmp_path / "per_image.csv")
    assert LITE0 in score_table(tmp_path)
