"""docs/what_layers_hold: the page, its numbers and the study file say the same."""

import pandas as pd
import pytest
from project import ROOT

from pipeline.core.params import Params, load_params
from pipeline.experiments.study.grid import Configuration, load_study
from pipeline.experiments.study.held import held_markdown

PARAMS = ROOT / "params.yaml"
PAGE = ROOT / "docs/what_layers_hold"
NETWORKS = ("vgg16", "resnet34", "pvt_v2_b2", "vit_small")
TYPES = ("float32", "float16", "bfloat16", "int8")


@pytest.fixture(scope="module")
def experiments() -> list[tuple[Configuration, Params]]:
    study = load_study(ROOT / "studies/what_layers_hold.yaml", PARAMS)
    return [(each, load_params(PARAMS, each.settings)) for each in study.configurations]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(PAGE / "held.csv")


def test_the_study_has_every_layer_in_every_stored_type(experiments: list[tuple[Configuration, Params]]) -> None:
    layers = {f"{name}.{layer}" for name in NETWORKS for layer in load_params(PARAMS).backbone_params(name).layers}
    assert {(each.source, params.store.dtype) for each, params in experiments} == {
        (layer, dtype) for layer in layers for dtype in TYPES
    }
    for each, params in experiments:
        assert params.sources == each.sources
        assert params.store.dtype == each.variant
        assert (params.prepare.size, params.prepare.crop, params.evaluate.refine_images) == (144, 128, 10)


def test_the_numbers_are_of_the_studys_experiments(
    experiments: list[tuple[Configuration, Params]], table: pd.DataFrame
) -> None:
    asked = {
        (each.source, each.variant, params.evaluate.refine, params.evaluate.refine_budget)
        for each, params in experiments
    }
    assert set(table[["source", "variant", "refiner", "budget"]].itertuples(index=False, name=None)) == asked
    assert len(table) == len(asked)


def test_the_page_shows_these_numbers(table: pd.DataFrame) -> None:
    _, rows = held_markdown(table).split("\n\n", 1)
    assert rows in (PAGE / "README.md").read_text()


def test_the_page_names_the_layers_that_evaluate_warns_of(table: pd.DataFrame) -> None:
    warned = table.groupby("source")["warned"].all()
    assert warned.equals(table.groupby("source")["warned"].any())
    (sentence,) = (line for line in (PAGE / "README.md").read_text().split("* ") if "`evaluate` warns of each" in line)
    for source in warned.index[warned]:
        layer = source.partition(".")[2]
        assert f"`{source}`" in sentence or f"`{layer}`" in sentence, source
