"""Studies without running any: the files of studies/, what a wrong file says, the table and the figures."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import DeviceError, ParamsError
from pipeline.core.params import load_params
from pipeline.experiments.found import Experiment
from pipeline.experiments.study import work
from pipeline.experiments.study.experiments import feature_settings
from pipeline.experiments.study.figures import by_network, depth_curves, heat_map
from pipeline.experiments.study.grid import Configuration, load_study
from pipeline.experiments.study.held import by_depth, held, held_markdown
from pipeline.experiments.study.results import pivot
from pipeline.experiments.study.work import check_jobs
from stages.choices import check_experiment

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
OWN = ("what_layers_hold", "depth", "trained_or_random")  # every other one is a published system's protocol
COUNTS = {
    "cross_architecture": 44,
    "depth": 5,
    "layers_attention": 15,
    "layers_resnet50": 8,
    "losses": 8,
    "small_decoder": 1,
    "trained_or_random": 55,
    "what_layers_hold": 100,
}


def configurations(path: Path) -> tuple[Configuration, ...]:
    return load_study(path, PARAMS).configurations


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_is_valid_and_complete(path: Path) -> None:
    found = configurations(path)
    assert len(found) == COUNTS[path.stem]
    assert len({each.name for each in found}) == len(found)
    assert len({(each.source, each.variant) for each in found}) == len(found)
    for each in (found[0], found[-1]):
        params = load_params(PARAMS, each.settings)
        assert params.sources == each.sources
        assert params.train.protocol == ("fast" if path.stem in OWN else "published")


def test_the_published_comparison_has_eight_layers_and_three_fusions_of_four() -> None:
    found = configurations(ROOT / "studies/cross_architecture.yaml")
    assert len({each.source for each in found if len(each.sources) == 1}) == 8
    ensembles = [each for each in found if len(each.sources) == 4]
    assert {each.source for each in ensembles} == {"early attention", "early concat", "early weighted"}
    assert {each.variant for each in found} == {"transposed_conv", "frequency_aware", "wavelet", "attention"}
    for each in (found[0], ensembles[0]):
        check_experiment(load_params(PARAMS, each.settings))


def test_lists_vary_and_single_values_are_fixed(tmp_path: Path) -> None:
    text = """
    set: {decoder: residual, seed: 1}
    grids:
      rates: {source: vgg16.block1, seed: 2, protocols.fast.learning_rate: [1e-4, 0.5]}
    """
    slow, fast = configurations(write(tmp_path, text))
    assert (slow.name, fast.name) == ("mine-vgg16.block1-0.0001", "mine-vgg16.block1-0.5")
    params = load_params(PARAMS, slow.settings)
    assert (params.decoder, params.seed, params.recipe.learning_rate) == ("residual", 2, 1e-4)


def test_overrides_come_before_the_file_and_after_its_grids(tmp_path: Path) -> None:
    path = write(tmp_path, "set: {seed: 1, loss: mse}\ngrids: {a: {source: vgg16.block1, loss: ssim_l1}}")
    (one,) = load_study(path, PARAMS, ["seed=5", "prepare.views=1"]).configurations
    params = load_params(PARAMS, one.settings)
    assert (params.seed, params.loss, params.prepare.views) == (5, "ssim_l1", 1)


def test_a_single_source_needs_no_fusion_whatever_params_say(tmp_path: Path) -> None:
    settings = ["fusion=concat", "ensemble.second.backbone=resnet34", "ensemble.second.layer=layer1"]
    (one,) = configurations(write(tmp_path, "grids: {a: {source: vgg16.block1}}"))
    assert len(load_params(PARAMS, [*settings, *one.settings]).sources) == 1


WRONG = {
    "grid: {}": "unknown key 'grid' (did you mean 'grids'?)",
    "set: {train.protocl: fast}\ngrids: {a: {source: vgg16.block1}}": (
        "unknown key 'set.train.protocl' (did you mean 'train.protocol'?); a study sets keys that params.yaml has"
    ),
    "grids: {a: {source: vgg16}}": "grids.a.source: source 'vgg16' is not of the form backbone.layer",
    "grids: {a: {decoder: linear}}": "grids.a has no source; add one, for example source: vgg16.block1",
    "grids: {a: {source: vgg16.block1, layer: block2}}": "grids.a.layer: sources are given as source",
    "grids: {a: {source: vgg16.block1, decoder: []}}": "grids.a.decoder is an empty list; give it a value",
    "ensembles: {one: [vgg16.block1]}\ngrids: {a: {source: one}}": (
        "ensembles.one has 1 source; an ensemble takes two or more"
    ),
    "grids: {a: {source: vgg16.block1}, b: {source: vgg16.block1, seed: 1}}": (
        "two configurations are called mine-vgg16.block1-default; write the keys that differ as lists"
    ),
    "grids: []": "grids = []: must be a section of keys",
    "[]": "holds no keys; a study needs at least: grids",
    "grids: {": "is not valid YAML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_file(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ParamsError) as refusal:
        configurations(path)
    assert any(line.startswith(str(path)) and WRONG[text] in line for line in str(refusal.value).splitlines())


def test_a_missing_study_names_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path, "grids: {}")
    with pytest.raises(ParamsError, match=rf"other.yaml is missing; choose one of: {path}$"):
        configurations(tmp_path / "other.yaml")


def test_features_are_extracted_for_four_backbones_at_a_time_and_once_for_equal_data(tmp_path: Path) -> None:
    found = configurations(ROOT / "studies/cross_architecture.yaml")
    (settings,) = feature_settings(found)  # four backbones
    params = load_params(PARAMS, [each.replace("fusion=none", "fusion=concat") for each in settings])
    assert sorted(source.backbone for source in params.sources) == ["pvt_v2_b2", "resnet34", "vgg16", "vit_small"]
    text = "grids: {a: {source: vgg16.block1, decoder: [linear, residual], prepare.views: [1, 2]}}"
    assert len(feature_settings(configurations(write(tmp_path, text)))) == 2
    text = "grids: {a: {source: [vgg16.block1, resnet34.layer1, resnet50.layer1, vit_small.block1, vit_base.block1]}}"
    assert len(feature_settings(configurations(write(tmp_path, text)))) == 2


def test_one_job_for_each_gpu_and_never_two_on_one() -> None:
    assert check_jobs(None, ()) == 1
    assert check_jobs(3, ()) == 3
    assert check_jobs(None, ("0", "1")) == 2
    with pytest.raises(DeviceError, match=r"^--jobs 3: 2 GPUs are visible here, .*; give at most 2$"):
        check_jobs(3, ("0", "1"))
    with pytest.raises(DeviceError, match=r"^--jobs 0: must be at least 1$"):
        check_jobs(0, ())


def test_each_worker_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = "import os; print('seen', os.environ['CUDA_VISIBLE_DEVICES'])"
    monkeypatch.setattr(work, "DVC", (sys.executable, "-c", stub))
    work.work_off(2, lambda: 0, 2, ("3", "7"), tmp_path)
    assert [(tmp_path / f"worker_{number}.log").read_text() for number in range(2)] == ["seen 3\n", "seen 7\n"]


@pytest.fixture
def table() -> pd.DataFrame:
    columns = ["vgg16.block3", "vgg16.block1", "resnet34.layer1", "early attention"]
    values = np.arange(8, dtype=float).reshape(2, 4)
    values[1, 2] = np.nan
    return pd.DataFrame(values, index=pd.Index(["linear", "wavelet"], name="variant"), columns=columns)


def test_the_table_has_a_cell_for_each_configuration() -> None:
    found = configurations(ROOT / "studies/cross_architecture.yaml")
    scores = pd.DataFrame({"experiment": [each.name for each in found], "psnr": range(44)}).sample(frac=1)
    table = pivot(scores, found, "psnr")
    assert table.shape == (4, 11)
    assert sorted(table.to_numpy().ravel()) == list(range(44))
    assert table.loc["transposed_conv", "resnet34.layer1"] == 0
    assert table.loc["attention", "early weighted"] == 43


def test_depth_goes_by_the_order_of_the_networks_layers(table: pd.DataFrame) -> None:
    depths = {"vgg16": ("block1", "block2", "block3"), "resnet34": ("layer1", "layer2")}
    assert by_network(table.columns, depths) == {"vgg16": ["block1", "block3"]}


def test_figures_are_the_same_for_the_same_table(table: pd.DataFrame) -> None:
    depths = {"vgg16": ("block1", "block2", "block3")}
    assert heat_map(table, "PSNR, dB", "random weights") == heat_map(table.copy(), "PSNR, dB", "random weights")
    curves = depth_curves(table, depths, "PSNR, dB", "random weights")
    assert curves is not None
    assert curves == depth_curves(table.copy(), depths, "PSNR, dB", "random weights")
    assert heat_map(table, "PSNR, dB", "random weights") != heat_map(table + 1, "PSNR, dB", "random weights")
    assert depth_curves(table, {"vgg16": ("block1",)}, "PSNR, dB", "random weights") is None


def refined(
    name: str, scores: dict[str, list[float]], decoder: str = "residual", warning: str | None = None
) -> Experiment:
    """An evaluation of three images of which some were refined."""
    table = pd.DataFrame({"image": ["a", "b", "c"], **scores}).set_index("image")
    refinement = {"refiner": "map", "budget": 20, "warning": warning}
    protocol = {"refinement": refinement, "model": {"blueprint": {"decoder": decoder}}}
    return Experiment(name, {}, protocol, table, Path("nowhere"))


def test_what_layers_hold_is_compared_on_the_images_that_were_refined(tmp_path: Path) -> None:
    text = """
      grids:
        holds:
          source: [vgg16.block1, vgg16.block2]
          store.dtype: [float32, int8]
          evaluate.refine: map
    """
    found = configurations(write(tmp_path, text))
    scores = {"bicubic_psnr": [1.0, 2, 90], "linear_psnr": [3.0, 4, 90], "psnr": [5.0, 6, 90]}
    experiments = {each.name: refined(each.name, {**scores, "refined_psnr": [7, 9, np.nan]}) for each in found}
    closed_form = {key: values for key, values in scores.items() if key != "linear_psnr"}
    experiments[found[2].name] = refined(found[2].name, {**closed_form, "refined_psnr": [7, 9, np.nan]})
    last = {**closed_form, "refined_psnr": [np.nan, np.nan, 10.0]}
    experiments[found[3].name] = refined(found[3].name, last, "linear", "worse images")
    table = held(found, experiments)
    assert table["images"].tolist() == [2, 2, 2, 1]
    assert table["warned"].tolist() == [False, False, False, True]
    assert table.loc[0, ["bicubic", "ridge", "decoder", "refined"]].tolist() == [1.5, 3.5, 5.5, 8.0]
    assert table.loc[3, ["ridge", "decoder", "refined"]].tolist() == [90, 90, 10]
    text = held_markdown(table)
    assert text.startswith("Mean PSNR in dB of 1, 2 test photographs; in each cell ridge / decoder / refined.\n\n")
    assert text.splitlines()[4:] == [
        "| vgg16.block1 | map (20) | 1.50 | 3.50 / 5.50 / 8.00 | 3.50 / 5.50 / 8.00 |",
        "| vgg16.block2 | map (20) | 1.50 | – / 5.50 / 8.00 | 90.00 / 90.00 / 10.00 |",
    ]
    assert held(found[::-1], experiments)["source"].tolist() == table["source"].tolist()
    assert by_depth(table).loc["refined"].to_dict() == {"vgg16.block1": 8.0, "vgg16.block2": 8.0}
