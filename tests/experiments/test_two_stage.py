"""Two stages: photographs refined through the known network, then a decoder that sees them beside the features."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_evaluation import no_lpips_weights  # noqa: F401  (autouse)
from small_experiment import CPU, PARAMS, VIT, Experiment, experiment, small_settings
from typer.testing import CliRunner

from pipeline.core.errors import CheckpointError, ParamsError, StoreError
from pipeline.core.params import load_params
from pipeline.core.sources import Inputs
from pipeline.evaluation.report import score_table
from pipeline.evaluation.run import evaluate
from pipeline.experiments.first_stage import FirstStage, load_first_stage, refine_photographs
from pipeline.experiments.reconstruction import reconstruct
from pipeline.experiments.study.estimate import Images, experiment_seconds
from pipeline.loading.inputs import REFINED_IMAGES, open_features, open_inputs
from pipeline.metrics.scores import psnr
from pipeline.models.common.checkpoint import load_model
from pipeline.models.common.inverter import load_inverter
from pipeline.refinement.networks import Networks
from pipeline.stores.opening import open_store
from pipeline.training.run import train
from stages.__main__ import app
from stages.loading import load_checked

pytestmark = pytest.mark.slow

# a layer that holds nearly all needs little of the prior
TWO_STAGES = (
    "two_stage.refine=map",
    "two_stage.budget=6",
    "refiners.map.strengths=[1e-5]",
    "decoders.residual.blocks=1",
)


def made() -> Experiment:
    return experiment("residual", *TWO_STAGES)


def changed(**two_stage: Any) -> Any:
    settings = made().params.two_stage.model_copy(update=two_stage)
    return made().params.model_copy(update={"two_stage": settings})


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    output, one = tmp_path_factory.mktemp("metrics"), made()
    return evaluate(one.params, one.data(), one.paths(metrics=output), CPU), output


def test_the_stored_images_are_what_the_refiner_makes_of_the_stored_features() -> None:
    """Read from the store here; computed again and rounded alike where they were refined."""
    one = made()
    source = one.params.sources[0]
    (features,) = open_features(one.features, [source], one.params, one.data())
    images = open_store(one.first_stage / REFINED_IMAGES)
    networks = Networks(one.params, [source], ["fp32"], CPU)
    facts = images.manifest.facts["backbone"]["refined"]
    stage = load_first_stage(facts, networks, one.models, one.data().crop, CPU)
    rows = one.data().rows("test")
    again = stage(torch.from_numpy(features.read(rows)))
    assert psnr(torch.from_numpy(images.read(rows)), again).min() > 50
    assert facts["refiner"] == "map"
    assert facts["budget"] == 6


def test_each_stage_improves_on_the_one_before(scores: tuple[dict[str, Any], Path]) -> None:
    metrics, output = scores
    linear, first, second = (
        each["psnr"] for each in (metrics["floors"]["linear"], metrics["floors"]["first_stage"], metrics)
    )
    assert linear < first < second["mean"]
    assert "its first stage, refined" in score_table(output)
    assert "vgg16.block1 → map → residual" in score_table(output)
    assert json.loads((output / "protocol.json").read_text())["first_stage"]["budget"] == 6


def test_a_refined_image_costs_no_bits_of_features(scores: tuple[dict[str, Any], Path]) -> None:
    assert scores[0]["features"]["bits_per_pixel"] == pytest.approx(16 * 64 / 4)


def test_the_inverter_takes_the_pixels_under_a_feature_as_its_channels() -> None:
    inverter = load_inverter(made().models, CPU)
    features, image = torch.rand(2, 64, 32, 32), torch.rand(2, 3, 64, 64)
    (joint,) = inverter.standardised(Inputs((features,), image))
    assert inverter.inputs == Inputs(("vgg16.block1",), "refined image")
    assert joint.shape == (2, 64 + 12, 32, 32)
    normalised = inverter.standardise[1](image)
    torch.testing.assert_close(joint[:, 64 + 4 * 1 + 2], normalised[:, 1, 1::2, 0::2])  # green, lower left


def test_any_photograph_goes_through_both_stages(tmp_path: Path) -> None:
    """As evaluate scores it, apart from float16 in the store."""
    one = made()
    row = one.data().rows("test")[:1]
    folder, photograph = one.root / "photographs", one.data().image_ids[int(one.data().image[row[0]])]
    found = reconstruct([str(folder / photograph)], one.models, one.params, tmp_path / "out", CPU)
    inputs = open_inputs(one.paths(), one.params.sources, one.params, one.data())
    with torch.no_grad():
        image = load_inverter(one.models, CPU)(inputs.map(lambda store: torch.from_numpy(store.read(row))))
    target = torch.from_numpy(one.data().crops(row)).permute(0, 3, 1, 2).float() / 255
    assert found.scores[0]["psnr"] == pytest.approx(float(psnr(image, target)), abs=0.02)
    assert Image.open(tmp_path / "out" / f"{Path(photograph).stem}_reconstruction.png").size == (64, 64)


def test_the_model_carries_all_that_its_first_stage_needs(tmp_path: Path) -> None:
    names = {path.name for path in made().models.iterdir()}
    assert names == {"model.json", "model.safetensors", "linear", "refiner.safetensors", "prior.safetensors"}
    shutil.copytree(made().models, tmp_path / "models")
    (tmp_path / "models/refiner.safetensors").unlink()
    photograph = next((made().root / "photographs").iterdir())
    with pytest.raises(CheckpointError, match=r"the refiner's state, is missing; train again: python -m stages t"):
        reconstruct([str(photograph)], tmp_path / "models", made().params, tmp_path / "out", CPU)
    (tmp_path / "models/refiner.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="the refiner's state, is damaged"):
        reconstruct([str(photograph)], tmp_path / "models", made().params, tmp_path / "out", CPU)


def test_refining_again_with_the_same_settings_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made()
    before = {path: path.read_bytes() for path in one.first_stage.rglob("*") if path.is_file()}
    monkeypatch.setattr("pipeline.experiments.first_stage.FirstStage.__call__", None)
    refine_photographs(one.params, one.data(), one.paths(), CPU)
    assert {path: path.read_bytes() for path in one.first_stage.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, calls = made(), []
    monkeypatch.setattr("pipeline.extraction.job.shard_rows", lambda *_: 8)
    refined, allowed = FirstStage.__call__, [1]

    def counted(stage: FirstStage, features: torch.Tensor) -> torch.Tensor:
        if len(calls) == allowed[0]:
            raise KeyboardInterrupt
        calls.append(len(features))
        return refined(stage, features)

    def run(name: str, work: str) -> dict[Path, bytes]:
        output = tmp_path / name
        refine_photographs(one.params, one.data(), one.paths(first_stage=output, work=tmp_path / work), CPU)
        return {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()}

    monkeypatch.setattr(FirstStage, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run("killed", "work")
    assert not (tmp_path / "killed").exists()
    allowed[0] = 1000
    after = run("killed", "work")
    assert sum(calls) == len(one.data()), "a finished shard is not refined again"
    assert after == run("undisturbed", "other")


def test_the_start_is_part_of_what_the_images_are() -> None:
    one = made()
    decoders = one.params.decoders | {"linear": {"kernel": 1}}
    params = one.params.model_copy(update={"decoders": decoders})
    with pytest.raises(StoreError, match=r"start.kernel is None, not 1; run `python -m stages refine`$"):
        open_inputs(one.paths(), one.params.sources, params, one.data())


def test_a_first_stage_that_is_not_whole_is_found_before_training(tmp_path: Path) -> None:
    one = made()
    for missing in ("refiner.safetensors", "linear/model.json"):
        folder = tmp_path / Path(missing).name
        shutil.copytree(one.first_stage, folder)
        (folder / missing).unlink()
        places = dict.fromkeys(("models", "metrics", "work"), tmp_path / "out") | {"first_stage": folder}
        with pytest.raises(StoreError, match=rf"{missing} is missing; run `python -m stages refine`$"):
            train(one.params, one.data(), one.paths(**places), CPU)
    assert not (tmp_path / "out").exists()


def test_it_warns_when_nearer_features_are_worse_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made()

    def flatness(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -(images - 0.5).square().mean((1, 2, 3))

    monkeypatch.setattr("pipeline.refinement.misleading.capped_psnr", flatness)
    paths = one.paths(first_stage=tmp_path / "out", work=tmp_path / "work")
    warning = refine_photographs(one.params, one.data(), paths, CPU)
    assert warning is not None
    assert warning.startswith("refining by map lowers PSNR from ")
    assert warning.endswith("try other refiners.map.strengths, lower two_stage.budget, or set two_stage.refine: none")


def test_without_a_first_stage_nothing_else_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "data/first_stage"
    shutil.copytree(made().first_stage / "linear", folder / "linear")
    (folder / "mine.txt").write_text("mine")
    result = CliRunner().invoke(app, ["refine", "--params", str(PARAMS), "--root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == {"mine.txt", "unused"}


def test_inspect_says_that_these_are_refined_images() -> None:
    result = CliRunner().invoke(app, ["inspect", str(made().first_stage)])
    assert "refined     source vgg16.block1, " in result.output
    assert "refiner map" in result.output


def test_inverted_blocks_are_a_first_stage_too(tmp_path: Path) -> None:
    one = experiment("residual", *VIT, "two_stage.refine=block_inverse", "two_stage.budget=4")
    metrics = evaluate(one.params, one.data(), one.paths(metrics=tmp_path), CPU)
    assert metrics["floors"]["first_stage"]["psnr"] > 10
    facts = load_model(one.models)[1]["first_stage"]
    networks = Networks(one.params, one.params.sources, ["fp32"], CPU)
    stage = load_first_stage(facts, networks, one.models, one.data().crop, CPU)
    (store,) = open_features(one.features, one.params.sources, one.params, one.data())
    kept = open_store(one.first_stage / REFINED_IMAGES)
    row = one.data().rows("test")[:1]
    again = stage(torch.from_numpy(store.read(row))).clamp(0, 1)
    torch.testing.assert_close(again, torch.from_numpy(kept.read(row)).clamp(0, 1), atol=2e-3, rtol=0)


def test_plan_knows_the_refined_images(tmp_path: Path) -> None:
    one = made()
    changes = (*small_settings(one.root), *TWO_STAGES, "decoder=residual")
    options = [word for change in changes for word in ("--set", change)]
    command = ["plan", "--no-time", "--params", str(PARAMS), "--root", str(tmp_path), *options]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/prepared").symlink_to(one.root / "data/prepared")
    (tmp_path / "features").symlink_to(one.features)
    missing = CliRunner().invoke(app, command)
    (tmp_path / "data/first_stage").symlink_to(one.first_stage)
    there = CliRunner().invoke(app, command)
    for result, written in ((there, "0 B"), (missing, "775 kB")):
        assert result.exit_code == 0, result.output
        assert "refined.image" in result.output
        assert f"to be written: {written};" in result.output


def test_verify_reads_the_refined_images_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made()
    shutil.copytree(one.features, tmp_path / "features")
    shutil.copytree(one.first_stage, tmp_path / "data/first_stage")
    monkeypatch.chdir(tmp_path)
    whole = CliRunner().invoke(app, ["verify"])
    assert whole.exit_code == 0, whole.output
    (shard,) = (tmp_path / "data/first_stage").rglob("c.0.0.0.0")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    damaged = CliRunner().invoke(app, ["verify"])
    assert "is damaged" in str(damaged.exception)


def test_the_estimate_of_a_study_knows_both_stages() -> None:
    images = Images(train=20, validation=2, test=2)
    assert experiment_seconds(made().params, images, CPU) > 0


def test_images_of_another_first_stage_are_refused(tmp_path: Path) -> None:
    one = made()
    with pytest.raises(StoreError, match=r"budget is 6, not 7; run `python -m stages refine`$"):
        open_inputs(one.paths(), one.params.sources, changed(budget=7), one.data())
    with pytest.raises(StoreError, match=r"there is no feature store here; run `python -m stages refine`$"):
        open_inputs(one.paths(first_stage=tmp_path), one.params.sources, one.params, one.data())
    with pytest.raises(CheckpointError, match=r"of 2 stages, params.yaml has two_stage.refine = 'none'; run:"):
        evaluate(changed(refine="none"), one.data(), one.paths(metrics=tmp_path), CPU)


def test_other_weights_than_those_of_the_features_are_refused(tmp_path: Path) -> None:
    one = made()
    other = one.params.backbones | {"vgg16": one.params.backbone_params("vgg16").model_copy(update={"seed": 1})}
    params = one.params.model_copy(update={"backbones": other})
    with pytest.raises(StoreError, match="seed 0"):
        refine_photographs(params, one.data(), one.paths(first_stage=tmp_path / "out", work=tmp_path / "work"), CPU)


def test_block_inverse_needs_a_vision_transformer_here_too() -> None:
    with pytest.raises(ParamsError, match="a plain vision transformer, but efficientnet_lite0 is a"):
        load_checked(PARAMS, ["two_stage.refine=block_inverse"])


def test_an_ensemble_has_no_first_stage() -> None:
    second = ["fusion=concat", "ensemble.second.backbone=resnet34", "ensemble.second.layer=layer1"]
    with pytest.raises(
        ParamsError, match=r"two_stage.refine = 'map' matches the features of one source, and there are 2"
    ):
        load_params(PARAMS, ["two_stage.refine=map", *second])


def test_the_description_says_what_the_first_stage_was() -> None:
    description = load_model(made().models)[1]
    assert description["first_stage"]["source"] == "vgg16.block1"
    assert set(description["stores"]) == {"vgg16.block1", "refined image"}
