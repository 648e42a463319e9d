"""The depth page: which layers have a model, from shallow to deep, and what a photograph keeps in each."""

from typing import Any

import pytest

from app.pages.depth import series

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
