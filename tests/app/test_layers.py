"""The depth page: which layers have a model, from shallow to deep, and what a photograph keeps in each."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_checkout import small_checkout

from app.laboratory import Laboratory
from app.layers import BICUBIC, Depth, curve, depth, page, series
from app.scores import scored
from pipeline.core.errors import DataError

DEPTHS = {"vgg16": ("block1", "block2", "block10")}


def model(*sources: str, kind: str = "random", two_stage: bool = False) -> dict[str, Any]:
    weights = {"kind": kind, "detail": "seed 0"}
    return {
        "blueprint": {"sources": list(sources), "two_stage": two_stage},
        "backbones": {source.partition(".")[0]: {"weights": weights} for source in sources},
    }


def test_layers_stand_by_depth_and_the_models_of_each_as_they_come() -> None:
    models = {
        "deep": model("vgg16.block10"),
        "middle": model("vgg16.block2"),
        "again": model("vgg16.block2"),
        "shallow": model("vgg16.block1"),
    }
    (found,) = series(models, DEPTHS)
    assert list(found.models.items()) == [
        ("block1", ["shallow"]),
        ("block2", ["middle", "again"]),
        ("block10", ["deep"]),
    ]


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


def test_a_model_of_an_older_version_has_no_word_of_two_stages() -> None:
    older = model("vgg16.block1")
    del older["blueprint"]["two_stage"]
    assert [list(each.models) for each in series({"older": older}, DEPTHS)] == [["block1"]]


def test_a_layer_that_params_no_longer_name_stands_last() -> None:
    (found,) = series({"old": model("vgg16.block0"), "deep": model("vgg16.block10")}, DEPTHS)
    assert list(found.models) == ["block10", "block0"]


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory(small_checkout())


@pytest.fixture(scope="module")
def found(laboratory: Laboratory) -> Depth:
    """A photograph through two layers of a trained network and one of the same with random weights."""
    return depth(laboratory, laboratory.photographs()[0], "efficientnet_lite0")


@pytest.mark.slow
def test_a_photograph_through_every_layer(found: Depth) -> None:
    (trained, layers), (random, alone) = found.seen
    assert (trained.weights.partition(" ")[0], random.weights) == ("package", "random weights (seed 0)")
    assert [one.layer for one in layers] == list(found.layers) == ["stage1", "stage2"]
    assert [one.model for one in alone] == ["shallow-random"]
    assert layers[0].psnr > layers[1].psnr  # of twice the grid
    original = found.photograph.image[0].permute(1, 2, 0).numpy()
    for one in (*layers, *alone):
        error = (one.picture / 255 - original) ** 2
        assert one.psnr == pytest.approx(-10 * np.log10(error.mean()), abs=0.05)  # of the picture, rounded to 8 bits
    assert not found.notes


@pytest.mark.slow
def test_scores_are_those_of_the_evaluation(found: Depth, laboratory: Laboratory) -> None:
    scores = {each.name: each.per_image["psnr"] for each in scored(laboratory)[0]}
    for _, seen in found.seen:
        for one in seen:
            assert one.psnr == pytest.approx(scores[one.model][found.photograph.name], abs=0.01)


@pytest.mark.slow
def test_the_curve_has_a_line_for_each_series_and_the_floor(found: Depth) -> None:
    table = curve(found)
    assert table.groupby("image").size().to_dict() == {"package weights": 2, "random weights": 1, BICUBIC: 2}
    floors = table[table["image"] == BICUBIC].set_index("layer")["PSNR, dB"]
    assert floors["stage1"] > floors["stage2"]


@pytest.mark.slow
def test_a_layer_without_a_model_has_an_empty_place(found: Depth) -> None:
    named = replace(found, photograph=replace(found.photograph, name="<b>cat</b>"))
    html = page(named)
    rows = html.split('class="layers"')[1:]
    assert [row.count("<img") for row in rows] == [2, 1]
    assert rows[1].count("no model") == 1
    assert 'aria-pressed="true" data-layer="stage1"' in html
    assert 'aria-pressed="true" data-layer="stage2"' in page(named, "stage2")
    assert "<b>cat" not in html


@pytest.mark.slow
def test_the_next_model_stands_in_for_one_that_does_not_load(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["broken", *laboratory.models()]
    description = laboratory.description
    monkeypatch.setattr(laboratory, "models", lambda: names)
    monkeypatch.setattr("app.layers.scored", lambda _: ([], []))  # all score the same, so that `broken` stands first
    monkeypatch.setattr(laboratory, "description", lambda name: description("deeper" if name == "broken" else name))
    found = depth(laboratory, laboratory.photographs()[0], "efficientnet_lite0")
    assert [one.layer for one in found.seen[0][1]] == ["stage1", "stage2"]
    assert sum("broken is left out" in note for note in found.notes) == 1


@pytest.mark.slow
def test_an_only_layer_says_which_commands_make_more(laboratory: Laboratory) -> None:
    only, weights = depth(laboratory, laboratory.photographs()[0], "vgg16").notes
    assert "block1" in only
    assert "dvc exp run --queue -S backbone=vgg16 -S layer=block2 " in only
    assert "backbones.vgg16.weights=imagenet" in weights


@pytest.mark.slow
def test_what_cannot_be_shown_says_why(laboratory: Laboratory) -> None:
    with pytest.raises(DataError, match="resnet34"):
        depth(laboratory, laboratory.photographs()[0], "resnet34")
    with pytest.raises(DataError, match="no such photograph"):
        depth(laboratory, "no such photograph", "efficientnet_lite0")
