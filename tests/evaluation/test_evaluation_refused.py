"""Stores, models and params.yaml that do not belong together are refused, or give no number."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_evaluation import no_lpips_weights, scored  # noqa: F401  (autouse)
from small_experiment import CPU, Experiment, experiment

from pipeline.core.errors import CheckpointError, DataError, StoreError
from pipeline.evaluation.run import evaluate


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("transposed_conv")


@pytest.mark.parametrize(
    ("section", "update", "said"),
    [("store", {"dtype": "int8"}, "float16"), ("extract", {"precision": "bf16"}, "precision is fp32, not bf16")],
)
def test_a_store_of_other_parameters_is_refused(
    section: str, update: dict[str, str], said: str, made: Experiment, tmp_path: Path
) -> None:
    changed = getattr(made.params, section).model_copy(update=update)
    with pytest.raises(StoreError, match=said):
        scored(made, tmp_path, made.params.model_copy(update={section: changed}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["stores", "data"])
def test_a_linear_model_of_another_training_is_no_floor(key: str, made: Experiment, tmp_path: Path) -> None:
    shutil.copytree(made.models, tmp_path / "models")
    path = tmp_path / "models/linear/model.json"
    description = json.loads(path.read_text())
    description[key] = {"vgg16.block1": "0" * 64} if key == "stores" else "0" * 64
    path.write_text(json.dumps(description))
    paths = made.paths(models=tmp_path / "models", metrics=tmp_path / "out")
    result = evaluate(made.params, made.data(), paths, CPU)
    assert set(result["floors"]) == {"mean_colour", "bicubic"}


def test_a_model_of_another_layer_is_refused(made: Experiment, tmp_path: Path) -> None:
    entry = made.params.backbone_params("vgg16").model_copy(update={"layers": ("block1", "block2")})
    backbones = {**made.params.backbones, "vgg16": entry}
    params = made.params.model_copy(update={"layer": "block2", "backbones": backbones})
    message = r"holds a decoder of vgg16.block1, params.yaml asks for vgg16.block2; run: dvc repro$"
    with pytest.raises(CheckpointError, match=message):
        scored(made, tmp_path, params)


def test_a_model_trained_on_other_features_is_refused(made: Experiment, tmp_path: Path) -> None:
    shutil.copytree(made.models, tmp_path / "models")
    description = json.loads((tmp_path / "models/model.json").read_text())
    description["stores"]["vgg16.block1"] = "0" * 64
    (tmp_path / "models/model.json").write_text(json.dumps(description))
    with pytest.raises(
        CheckpointError, match=r"models was trained on other features than .*block1 holds; run: dvc repro"
    ):
        evaluate(made.params, made.data(), made.paths(models=tmp_path / "models", metrics=tmp_path / "out"), CPU)


def test_no_test_images_is_refused(made: Experiment, tmp_path: Path) -> None:
    data = made.data()
    data._split[data._split == "test"] = "train"
    with pytest.raises(DataError, match="has no test images; give the data set a test split"):
        evaluate(made.params, data, made.paths(metrics=tmp_path), CPU)


def test_a_file_where_the_scores_should_go_is_refused_before_any_work(made: Experiment, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(DataError, match=r"^--metrics .*out: .*out is a file; name a folder"):
        evaluate(made.params, made.data(), made.paths(models=tmp_path / "nowhere", metrics=tmp_path / "out"), CPU)
    assert (tmp_path / "out").read_text() == "kept"


def test_no_old_scores_stand_beside_new_pictures(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the evaluation is killed while it draws."""
    scored(made, tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.evaluation.run.write_tables", killed)
    with pytest.raises(KeyboardInterrupt):
        scored(made, tmp_path)
    assert (tmp_path / "plots/images/best.png").is_file()
    assert not (tmp_path / "metrics.json").exists()
