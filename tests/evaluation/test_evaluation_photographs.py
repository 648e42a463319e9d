"""Several images of one photograph: the evaluation's intervals resample photographs, refined scores included."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_experiment import CPU, Experiment, experiment

from pipeline.core.params import EvaluateParams, Params
from pipeline.evaluation.bootstrap import summarise
from pipeline.evaluation.run import evaluate

pytestmark = pytest.mark.slow

SCENES = ("cat", "cup", "sea")


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


@pytest.fixture(scope="module")
def params(made: Experiment) -> Params:
    refining = {"refine": "lbfgs", "refine_budget": 2, "refine_images": 4}
    settings = EvaluateParams.model_validate({**made.params.evaluate.model_dump(), **refining})
    return made.params.model_copy(update={"evaluate": settings})


@pytest.fixture(scope="module")
def output(made: Experiment, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As if every third image of the folder were of one photograph."""
    folder, data = tmp_path_factory.mktemp("metrics"), made.data()
    data.photographs = tuple(SCENES[image % 3] for image in range(len(data.image_ids)))
    evaluate(params, data, made.paths(metrics=folder), CPU)
    return folder


@pytest.fixture(scope="module")
def per_image(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "per_image.csv")


def by_photograph(table: pd.DataFrame, column: str, params: Params) -> dict[str, float]:
    values = {"psnr": table[column].to_numpy()}
    return summarise(values, list(table["photograph"]), params.evaluate.bootstrap, params.seed)["psnr"]


def interval(spread: dict[str, float]) -> tuple[float, float]:
    return spread["low"], spread["high"]


def test_the_table_names_the_photograph_of_every_image(per_image: pd.DataFrame, made: Experiment) -> None:
    data = made.data()
    images = data.image[data.rows("test")]
    assert list(per_image.columns[:2]) == ["image", "photograph"]
    assert list(per_image["image"]) == [data.image_ids[image] for image in images]
    assert list(per_image["photograph"]) == [SCENES[image % 3] for image in images]


def test_intervals_are_those_of_photographs(output: Path, per_image: pd.DataFrame, params: Params) -> None:
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    refined = per_image.dropna(subset="refined_psnr")
    assert len(refined) == 4 < len(per_image)
    for found, table, column in ((metrics, per_image, "psnr"), (metrics["refined"], refined, "refined_psnr")):
        assert interval(found["psnr"]) == pytest.approx(interval(by_photograph(table, column, params)), abs=1e-3)
        alone = by_photograph(table.assign(photograph=table["image"]), column, params)
        assert not np.allclose(interval(found["psnr"]), interval(alone), atol=1e-2)


def test_the_protocol_counts_what_was_resampled(output: Path, params: Params) -> None:
    protocol = json.loads((output / "protocol.json").read_text())
    assert protocol["bootstrap"] == {"resamples": params.evaluate.bootstrap, "seed": params.seed, "photographs": 3}
    assert "cluster bootstrap" in protocol["conventions"]["low, high"]
