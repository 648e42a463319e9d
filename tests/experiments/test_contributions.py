"""The contribution of each layer: which sets are trained, and what their scores say."""

import json
from pathlib import Path

import pytest
from small_comparison import write_experiment

from pipeline.core.errors import ParamsError
from pipeline.core.params import Params, load_params
from pipeline.core.sources import Source
from pipeline.experiments.found import Experiment, opened
from pipeline.experiments.study.layers import (
    LayerSets,
    contributions,
    contributions_figure,
    contributions_markdown,
)

PARAMS = Path(__file__).parents[2] / "params.yaml"
SCORES = {"all": 4.0, "1": 3.0, "2": 2.0, "3": 1.0, "1+2": 3.5, "1+3": 3.2, "2+3": 2.5}  # dB, by layers


def loaded(*overrides: str) -> Params:
    return load_params(PARAMS, overrides)


def test_each_set_is_trained_once() -> None:
    overrides = ("backbone=vgg16", "layer=block3+block1+block2", "decoder=linear", "prepare.views=1")
    sets = LayerSets.of(loaded(*overrides), overrides)
    trained = {"+".join(each.layer for each in one.sources): one for one in sets.study.configurations}
    assert list(trained) == [
        "block1+block2+block3", "block1", "block2", "block3", "block2+block3", "block1+block3", "block1+block2",
    ]  # fmt: skip
    assert sets.up_to[Source("vgg16", "block3")] == sets.every
    assert sets.up_to[Source("vgg16", "block1")] == sets.alone[Source("vgg16", "block1")]
    assert sets.study.name == "layers_vgg16.block3+block1+block2_linear"
    for layers, one in trained.items():
        assert loaded(*one.settings).sources == one.sources
        assert {f"layer={layers}", "decoder=linear", "prepare.views=1"} <= set(one.settings)


def test_a_single_layer_has_no_fusion_and_sets_have_that_of_params() -> None:
    overrides = ("layer=last2", "fusion=routed", "ensemble.second={backbone: vgg16, layer: last2}")
    sets = LayerSets.of(loaded(*overrides), overrides)
    assert [str(each) for each in sets.alone] == [
        "efficientnet_lite0.stage4", "efficientnet_lite0.stage5", "vgg16.block4", "vgg16.block5",
    ]  # fmt: skip
    assert sets.study.name == "layers_efficientnet_lite0.last2_vgg16.last2_routed_residual"
    for one in sets.study.configurations:
        assert loaded(*one.settings).sources == one.sources
        assert ("fusion=none" in one.settings) == (len(one.sources) == 1)


def test_one_layer_has_no_contribution() -> None:
    with pytest.raises(ParamsError, match="layer = 'stage1' is one layer; name several"):
        LayerSets.of(loaded(), ())


@pytest.fixture
def study(tmp_path: Path) -> tuple[LayerSets, dict[str, Experiment]]:
    """Three layers, and experiments of all their sets with the scores above."""
    overrides = ("backbone=vgg16", "layer=block1+block2+block3", "fusion=routed")
    sets = LayerSets.of(loaded(*overrides), overrides)
    experiments = {}
    for number, one in enumerate(sets.study.configurations):
        layers = "+".join(each.layer.removeprefix("block") for each in one.sources)
        folder = write_experiment(tmp_path / one.name, SCORES.get(layers, SCORES["all"]), number)
        metrics, protocol = (json.loads((folder / name).read_text()) for name in ("metrics.json", "protocol.json"))
        metrics |= {"images": 40, "floors": {"bicubic": {"psnr": 20.0}}}
        if one == sets.every:
            metrics["fusion"] = {f"vgg16.block{k}": k / 6 for k in (1, 2, 3)}
        (features,) = protocol["features"].values()
        protocol["features"] = {str(each): {**features, "shape": "8×4×4"} for each in one.sources}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "protocol.json").write_text(json.dumps(protocol))
        with opened([str(folder)]) as (read,):
            experiments[one.name] = read
    return sets, experiments


def test_differences_are_paired_and_positive_where_a_layer_helps(study: tuple) -> None:
    table = contributions(*study, "psnr").set_index("source")
    left_out = [SCORES["all"] - SCORES[others] for others in ("2+3", "1+3", "1+2")]
    assert table["left_out"].tolist() == pytest.approx(left_out, abs=0.1)  # noise of 0.1 dB on each photograph
    assert table["added"].tolist()[1:] == pytest.approx([0.5, 0.5], abs=0.1)
    assert table["added"].isna().tolist() == [True, False, False]
    assert (table["left_out_low"] < table["left_out"]).all()
    assert (table["left_out_high"] - table["left_out_low"]).max() < 0.2  # of differences, not of the photographs
    assert table["weight"].tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert table["alone"].is_monotonic_decreasing
    assert table["up_to"].is_monotonic_increasing


def test_a_metric_that_falls_counts_the_other_way(study: tuple) -> None:
    table = contributions(*study, "mse").set_index("source")
    assert (table["left_out"] > 0).all()


def test_the_table_and_the_figure_name_every_layer(study: tuple) -> None:
    sets, experiments = study
    table, everything = contributions(sets, experiments, "psnr"), experiments[sets.every.name]
    text = contributions_markdown(table, sets, everything, "psnr")
    assert [line.split(" | ")[0] for line in text.splitlines()[2:5]] == [f"| vgg16.block{k}" for k in (1, 2, 3)]
    assert "all sources together: 34" in text
    assert "routed_residual · random weights (seed 0) · folder" in text
    figure = contributions_figure(table, sets, everything, "psnr")
    assert figure == contributions_figure(table, sets, everything, "psnr")
    assert "block3" in figure
    assert "weight in the fusion" in figure
