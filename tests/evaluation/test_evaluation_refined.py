"""Refinement inside an evaluation: what it writes, what it says, and that without it nothing changes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from small_evaluation import no_lpips_weights  # noqa: F401  (autouse)
from small_experiment import CPU, VIT, Experiment, experiment

from pipeline.backbones.backbone import load_backbone
from pipeline.core.errors import DataError, ParamsError, StoreError, WeightsError
from pipeline.core.params import EvaluateParams, load_params
from pipeline.evaluation.report import score_table, write_report
from pipeline.evaluation.run import evaluate
from pipeline.refinement.base import KnownLayer, Refiner, Step
from stages.loading import load_checked

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[2] / "params.yaml"


def scored(made: Experiment, output: Path, **settings: Any) -> dict[str, Any]:
    """Evaluate with other settings of `evaluate`."""
    changed = EvaluateParams.model_validate({**made.params.evaluate.model_dump(), **settings})
    params = made.params.model_copy(update={"evaluate": changed})
    return evaluate(params, made.data(), made.paths(metrics=output), CPU)


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


@pytest.fixture(scope="module")
def plain(made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    scored(made, folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def output(made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refined")
    scored(made, folder, refine="lbfgs", refine_budget=6, refine_images=4)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def metrics(output: Path) -> dict[str, Any]:
    return json.loads((output / "metrics.json").read_text())


def test_the_layer_holds_more_than_the_decoder_gets(metrics: dict[str, Any]) -> None:
    refined = metrics["refined"]
    assert refined["images"] == 4
    assert refined["gain"] > 3
    assert refined["psnr"]["low"] < refined["psnr"]["mean"] < refined["psnr"]["high"]
    assert refined["ssim"]["mean"] > metrics["ssim"]["mean"]
    assert refined["lpips"] is None
    assert refined["relative_error"] < metrics["consistency"]["relative_error"]


def test_refined_images_are_spread_over_the_split(output: Path, metrics: dict[str, Any]) -> None:
    table = pd.read_csv(output / "per_image.csv")
    assert table.index[table["refined_psnr"].notna()].tolist() == [0, 2, 4, 6]
    chosen = table.dropna(subset="refined_psnr")
    assert metrics["refined"]["psnr"]["mean"] == pytest.approx(chosen["refined_psnr"].mean(), rel=1e-5)
    assert metrics["refined"]["gain"] == pytest.approx((chosen["refined_psnr"] - chosen["psnr"]).mean(), rel=1e-4)


def test_the_trajectory_leads_from_the_decoders_image_to_the_refined_one(output: Path) -> None:
    table = pd.read_csv(output / "per_image.csv").dropna(subset="refined_psnr").set_index("image")
    steps = pd.read_csv(output / "plots" / "refinement_per_image.csv")
    assert steps.groupby("image")["evaluation"].apply(list).tolist() == [[1, 2, 3, 4, 5, 6]] * 4
    first, last = (steps[steps["evaluation"] == number].set_index("image") for number in (1, 6))
    for image, row in table.iterrows():
        assert first.loc[image, "psnr"] == pytest.approx(row["psnr"], abs=1e-3)
        assert first.loc[image, "feature_error"] == pytest.approx(row["relative_error"], rel=1e-3)
        assert last.loc[image, "psnr"] == pytest.approx(row["refined_psnr"], abs=1e-3)
    means = pd.read_csv(output / "plots" / "images" / "refinement.csv")
    expected = steps.groupby("evaluation")[["psnr", "feature_error"]].mean()
    assert means["psnr"].tolist() == pytest.approx(expected["psnr"].tolist(), rel=1e-4)
    assert means["feature_error"].tolist() == pytest.approx(expected["feature_error"].tolist(), rel=1e-4)


def test_the_figure_and_the_report_show_it(output: Path, plain: Path) -> None:
    width, height = Image.open(output / "plots" / "images" / "refined.png").size
    assert width > 4 * 64
    assert height > 3 * 64
    page = (output / "report.html").read_text()
    assert page.count("<svg") == (plain / "report.html").read_text().count("<svg") + 1  # PSNR against evaluations
    assert "What the layer holds, at least: 4 test images, refined by lbfgs" in page
    assert "what the layer holds" in score_table(output)
    assert "warning" not in score_table(output)


def test_the_protocol_says_how_but_the_scores_stay_comparable(output: Path, plain: Path) -> None:
    protocol = json.loads((output / "protocol.json").read_text())
    expected = {"refiner": "lbfgs", "options": {"history": 20}, "budget": 6, "images": 4, "warning": None}
    assert protocol["refinement"] == expected
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (plain, output))
    assert after.pop("refined")
    assert after == before


def test_without_refinement_nothing_is_written_of_it(plain: Path) -> None:
    assert not [path for path in plain.rglob("*") if "refine" in path.name]
    assert "refine" not in (plain / "metrics.json").read_text() + (plain / "protocol.json").read_text()
    assert "refine" not in (plain / "per_image.csv").read_text()


def test_equal_runs_write_equal_bytes(made: Experiment, output: Path, tmp_path: Path) -> None:
    scored(made, tmp_path, refine="lbfgs", refine_budget=6, refine_images=4)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (output / path.relative_to(tmp_path)).read_bytes(), path


class Misled(Refiner):
    """Finds images that are nearer in features and further off in pixels."""

    advice = "look at {refine} and {budget}"

    def refine(self, features: torch.Tensor, start: torch.Tensor) -> Iterator[Step]:
        for number in range(1, 4):
            yield Step((start + 0.1 * number).clamp(0, 1), torch.full((len(start),), 0.5 / number))


def test_nearer_features_that_are_worse_images_are_warned_of(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str, options: dict[str, Any], layer: KnownLayer, budget: int) -> Misled:
        return Misled(layer, budget, Misled.Options())

    monkeypatch.setattr("pipeline.evaluation.refined.build_refiner", build)
    scored(made, tmp_path, refine="lbfgs", refine_images=1)
    warning = json.loads((tmp_path / "protocol.json").read_text())["refinement"]["warning"]
    count = len(made.data().rows("validation"))
    assert warning.startswith("refining by lbfgs lowers PSNR from ")
    assert f" dB on {count} validation images while the feature error falls from 0.5 to 0.167: look at " in warning
    assert warning.endswith("evaluate.refine and evaluate.refine_budget")
    assert f"warning: {warning}" in score_table(tmp_path)
    write_report(tmp_path)
    assert f"Warning: {warning}" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_features_of_any_stored_type_are_refined(dtype: str, tmp_path: Path) -> None:
    stored = experiment("linear", f"store.dtype={dtype}")
    metrics = scored(stored, tmp_path, refine="lbfgs", refine_budget=6, refine_images=2)
    assert metrics["refined"]["gain"] > 3


def test_the_blocks_of_a_transformer_are_inverted(tmp_path: Path) -> None:
    vit = experiment("linear", *VIT)
    metrics = scored(vit, tmp_path, refine="block_inverse", refine_budget=8)
    assert metrics["refined"]["images"] == len(vit.data().rows("test"))
    steps = pd.read_csv(tmp_path / "plots" / "refinement_per_image.csv").groupby("evaluation").mean(numeric_only=True)
    assert steps["feature_error"].iloc[-1] < 0.1 * steps["feature_error"].iloc[0]
    assert steps["psnr"].iloc[-1] > steps["psnr"].iloc[0]


def test_map_needs_the_prior_of_the_same_photographs(made: Experiment, tmp_path: Path) -> None:
    assert scored(made, tmp_path, refine="map", refine_budget=4, refine_images=2)["refined"]["gain"] > 0
    shutil.copytree(made.models, tmp_path / "models")
    (tmp_path / "models" / "prior.safetensors").unlink()
    settings = made.params.evaluate.model_copy(update={"refine": "map"})
    params = made.params.model_copy(update={"evaluate": settings})
    with pytest.raises(DataError, match=r"the image prior, is missing; train again: python -m stages train$"):
        evaluate(params, made.data(), made.paths(models=tmp_path / "models", metrics=tmp_path / "out"), CPU)
    assert not (tmp_path / "out").exists()


def test_no_refiner_sees_the_test_split_while_it_learns(made: Experiment, tmp_path: Path, monkeypatch: Any) -> None:
    from pipeline.refinement.refiners.map import Map

    learn, data = Map.learn, made.data()
    seen: list[torch.Tensor] = []

    def spy(self: Map, examples: Any) -> None:
        for pairs in (examples.training(1000), examples.validation()):
            seen.extend(pair.rows for pair in pairs)
        learn(self, examples)

    monkeypatch.setattr(Map, "learn", spy)
    scored(made, tmp_path, refine="map", refine_budget=2, refine_images=1)
    rows = {int(row) for part in seen for row in part}
    assert rows & set(data.rows("test").tolist()) == set()
    assert rows >= set(data.rows("validation").tolist())


def test_other_weights_than_the_stores_are_refused(made: Experiment, tmp_path: Path) -> None:
    other = load_backbone("vgg16", made.params.backbone_params("vgg16").model_copy(update={"seed": 1}), CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.refinement.networks.load_backbone", lambda *_: other)
        with pytest.raises(StoreError, match=r"was written with .*, params.yaml now gives .*; extract again"):
            scored(made, tmp_path, refine="lbfgs")


def test_without_weights_nothing_can_be_refined(made: Experiment, tmp_path: Path) -> None:
    def missing(*_: Any) -> None:
        raise WeightsError("vgg16's weights are not here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.refinement.networks.load_backbone", missing)
        with pytest.raises(WeightsError, match="not here"):
            scored(made, tmp_path, refine="lbfgs")
        assert "refined" not in scored(made, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["evaluate.refine=lbfsg"], r"evaluate.refine = 'lbfsg' is unknown \(did you mean 'lbfgs'\?\); choose one of"),
        (["evaluate.refine_budget=0"], "evaluate.refine_budget = 0: must be at least 1"),
        (["evaluate.refine_images=0"], "evaluate.refine_images = 0: must be at least 1"),
        (
            ["evaluate.refine=map", "fusion=weighted", "ensemble.second={backbone: resnet34, layer: layer1}"],
            "evaluate.refine = 'map' matches the features of one source, and there are 2; set",
        ),
    ],
)
def test_what_cannot_be_refined_is_refused_at_once(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ParamsError, match=sentence):
        load_params(PARAMS, overrides)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["evaluate.refine=block_inverse"], "a plain vision transformer, but efficientnet_lite0 is a"),
        (["refiners.map.strengths=[]"], "refiners.map.strengths"),
        (["refiners.map.strengths=[0.0]"], "refiners.map.strengths.0 = 0.0: must be above 0"),
        (["refiners.block_inverse.damping=1.5"], "refiners.block_inverse.damping = 1.5: must be at most 1"),
        (["refiners.lbfgs.histroy=3"], r"unknown key 'refiners.lbfgs.histroy' \(did you mean 'history'\?\)"),
    ],
)
def test_options_of_refiners_are_checked_whole(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ParamsError, match=sentence):
        load_checked(PARAMS, overrides)
