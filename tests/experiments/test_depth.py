"""The same photographs by depth: the best experiment of each layer, shallow to deep, in a table and a picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_comparison import write_experiment

from pipeline.experiments.found import Experiment, opened
from pipeline.experiments.study.depth import best_by_layer, depth_markdown, depth_picture, depth_table
from pipeline.experiments.study.grid import Configuration

DEPTHS = {"vgg16": ("block1", "block2", "block3"), "resnet34": ("layer1", "layer2")}


def evaluated(folder: Path, source: str, shift: float, decoder: str) -> str:
    """An evaluation of `decoder` on `source`, with floors and bits per pixel."""
    write_experiment(folder, shift)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"floors": {"bicubic": {"psnr": 20.0}}, "features": {"bits_per_pixel": 16.0}}
    protocol = json.loads((folder / "protocol.json").read_text())
    (features,) = protocol["features"].values()
    protocol |= {"features": {source: {**features, "shape": "8×4×4"}}}
    protocol["model"]["blueprint"]["decoder"] = decoder
    if decoder != "linear":
        metrics["floors"]["linear"] = {"psnr": 19.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "protocol.json").write_text(json.dumps(protocol))
    return str(folder)


@pytest.fixture
def study(tmp_path: Path) -> tuple[list[Configuration], dict[str, Experiment]]:
    """Two layers of a network, the deeper one first and by two decoders; one layer alone of another network."""
    wanted = [("vgg16.block3", 0.0, "linear"), ("vgg16.block3", 1.0, "residual"), ("vgg16.block1", 3.0, "residual")]
    wanted.append(("resnet34.layer1", 2.0, "residual"))
    names = [evaluated(tmp_path / str(k), *each) for k, each in enumerate(wanted)]
    configurations = [
        Configuration(name, source, decoder, (), ()) for name, (source, _, decoder) in zip(names, wanted, strict=True)
    ]
    with opened(names) as experiments:
        return configurations, {each.name: each for each in experiments}


def test_layers_stand_by_depth_with_their_best_experiment(study: tuple) -> None:
    configurations, experiments = study
    found = best_by_layer(configurations, experiments, DEPTHS)
    assert list(found) == ["vgg16"]
    assert list(found["vgg16"]) == ["block1", "block3"]
    assert found["vgg16"]["block3"].name == configurations[1].name


def test_the_table_has_floors_and_the_upper_bound_where_there_is_one(study: tuple) -> None:
    configurations, experiments = study
    refined, plain = experiments[configurations[2].name], experiments[configurations[0].name]
    refined.per_image["refined_psnr"] = [50.0, 60.0, *[np.nan] * (len(refined.per_image) - 2)]
    layers = {"block1": refined, "block3": plain}
    table = depth_table(layers).set_index("layer")
    assert table.loc["block1", ["bits", "bicubic", "linear", "refined"]].tolist() == [16, 20, 19, 55]
    assert table.loc["block3", "linear"] == table.loc["block3", "psnr"]  # the linear decoder is its own floor
    assert np.isnan(table.loc["block3", "refined"])
    *_, first, second, _, behind = depth_markdown(layers).splitlines()
    assert behind == "random weights (seed 0) · folder"
    assert "| 55.00 |" in first
    assert "| – |" in second


def test_the_picture_has_a_column_for_each_layer(study: tuple) -> None:
    configurations, experiments = study
    first, second = (experiments[configurations[k].name] for k in (2, 1))
    one, two = depth_picture({"block1": first}), depth_picture({"block1": first, "block3": second})
    assert one is not None
    assert two is not None
    assert two.shape[0] == one.shape[0]
    assert (two.shape[1] - 6) * 2 == (one.shape[1] - 6) * 3  # a margin, then columns of equal width
