"""Evaluation of a small experiment, on a machine without LPIPS weights."""

from pathlib import Path
from typing import Any

import pytest
from small_experiment import CPU, Experiment

from pipeline.core.params import Params
from pipeline.evaluation.run import evaluate


@pytest.fixture(scope="module", autouse=True)
def no_lpips_weights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An empty cache of torchvision's, whatever this machine has: for every module that imports the fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch_home")))
        yield


def scored(made: Experiment, output: Path, params: Params | None = None) -> dict[str, Any]:
    return evaluate(params or made.params, made.data(), made.paths(metrics=output), CPU)
