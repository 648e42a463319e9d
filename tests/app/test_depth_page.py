"""The depth page: which layers have a model, from shallow to deep, and what a photograph keeps in each."""

from typing import Any

import numpy as np
import pytest
import torch
from small_checkout import EXPERIMENTS
from small_experiment import CPU, experiment

from app.pages.depth import BICUBIC, Seen, Series, curve, more_layers, page, series, through
from pipeline.experiments.reconstruction import load_encoder
from pipeline.models.common.checkpoint import load_model
from pipeline.stores.encoding import rgb

LAYERS = {"efficientnet_lite0": ("stage1", "stage2")}
DEPTHS = {"vgg16": ("block1", "block2", "block10")}


def model(*sources: str, kind: str = "random", two_stage: bool = False) -> dict[str, Any]:
    weights = {"kind": kind, "detail": "seed 0"}
    return {
        "blueprint": {"sources": list(sources), "two_stage": two_stage},
        "backbones": {source.partition(".")[0]: {"weights": weights} for source in sources},
    }


def test_layers_stand_by_depth_and_the_first_model_of_each_counts() -> None:
    models = {
        "deep": model("vgg16.block10"),
        "middle": model("vgg16.block2"),
        "again": model("vgg16.block2"),
        "shallow": model("vgg16.block1"),
    }
    (found,) = series(models, DEPTHS)
    assert list(found.models.items()) == [("block1", "shallow"), ("block2", "middle"), ("block10", "deep")]


def test_trained_and_random_weights_are_two_series_the_longer_one_first() -> None:
    models = {"a": model("vgg16.block1"), "b": model("vgg16.block1", kind="imagenet"), "c": model("vgg16.block2")}
    assert [(each.weights, list(each.models)) for each in series(models, DEPTHS)] == [
        ("random weights (seed 0)", ["block1", "block2"]),
        ("imagenet weights (seed 0)", ["block1"]),
    ]


@pytest.mark.parametrize(
    "other",
    [model("vgg16.block1", "resnet34.layer1"), model("vgg16.block1", two_stage=True)],
    ids=["fused", "two_stage"],
)
def test_what_is_of_no_single_layer_is_left_out(other: dict[str, Any]) -> None:
    assert series({"other": other}, DEPTHS) == []


def test_a_layer_that_params_no_longer_name_stands_last() -> None:
    (found,) = series({"old": model("vgg16.block0"), "deep": model("vgg16.block10")}, DEPTHS)
    assert list(found.models) == ["block10", "block0"]


@pytest.fixture(scope="module")
def original() -> torch.Tensor:
    data = experiment("linear", *EXPERIMENTS["shallow"]).data()
    return rgb(torch.from_numpy(data.crops(data.rows("test")[:1])))[0]


@pytest.fixture(scope="module")
def seen(original: torch.Tensor) -> list[tuple[Series, list[Seen]]]:
    """A photograph through two layers of a trained network and one of the same with random weights."""
    made = {name: experiment("linear", *overrides) for name, overrides in EXPERIMENTS.items()}
    encoders = {name: load_encoder(each.models, each.params, CPU) for name, each in made.items()}
    found = series({name: load_model(each.models)[1] for name, each in made.items()}, LAYERS)
    return [(each, through(each, original, encoders.__getitem__)) for each in found]


@pytest.mark.slow
def test_a_photograph_through_every_layer(seen: list[tuple[Series, list[Seen]]], original: torch.Tensor) -> None:
    (trained, layers), (random, alone) = seen
    assert (trained.weights.partition(" ")[0], random.weights) == ("package", "random weights (seed 0)")
    assert [one.layer for one in layers] == ["stage1", "stage2"]
    assert [one.model for one in alone] == ["shallow-random"]
    assert layers[0].psnr > layers[1].psnr  # of twice the grid
    for one in (*layers, *alone):
        error = (one.picture / 255 - original.permute(1, 2, 0).numpy()) ** 2
        assert one.psnr == pytest.approx(-10 * np.log10(error.mean()), abs=0.05)  # of the picture, rounded to 8 bits


@pytest.mark.slow
def test_the_curve_has_a_line_for_each_series_and_the_floor(seen: list[tuple[Series, list[Seen]]]) -> None:
    table = curve(seen, LAYERS["efficientnet_lite0"])
    assert table.groupby("image").size().to_dict() == {seen[0][0].weights: 2, seen[1][0].weights: 1, BICUBIC: 2}
    floors = table[table["image"] == BICUBIC].set_index("layer")["PSNR, dB"]
    assert floors["stage1"] > floors["stage2"]


@pytest.mark.slow
def test_a_layer_without_a_model_has_an_empty_place(
    seen: list[tuple[Series, list[Seen]]], original: torch.Tensor
) -> None:
    html = page("<b>cat</b>", original, seen, LAYERS["efficientnet_lite0"])
    rows = html.split('class="layers"')[1:]
    assert [row.count("<img") for row in rows] == [2, 1]
    assert rows[1].count("no model") == 1
    assert "<b>cat" not in html


def test_the_commands_for_more_layers() -> None:
    assert more_layers("vgg16", ["block2", "block3"]).startswith(
        "dvc exp run --queue -S backbone=vgg16 -S layer=block2,block3 "
    )
