"""Each error is the builtin that fits as well, and no clause for a builtin swallows it on its way."""

from __future__ import annotations

import os
import pickle
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core import errors
from pipeline.core.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    LockedError,
    ParamsError,
    PipelineError,
    ShapeError,
    StoreError,
    TrainingError,
    WeightsError,
)
from pipeline.core.params import load_params
from pipeline.core.runtime import enough_memory
from pipeline.core.sources import Inputs
from pipeline.models.common import inverter
from pipeline.models.common.checkpoint import load_model
from pipeline.stores.files import disk_errors
from pipeline.training.run import check_batches
from stages import __main__ as command_line

PARAMS = Path(__file__).parents[2] / "params.yaml"
BUILTIN = {
    ParamsError: ValueError,
    DataError: ValueError,
    WeightsError: OSError,
    StoreError: OSError,
    ShapeError: ValueError,
    CheckpointError: ValueError,
    TrainingError: ArithmeticError,
    LockedError: BlockingIOError,
    DeviceError: RuntimeError,
}


def test_every_error_is_here() -> None:
    found = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PipelineError)}
    assert found - {PipelineError} == set(BUILTIN)


@pytest.mark.parametrize("error", BUILTIN)
def test_an_error_is_its_builtin_and_keeps_its_sentence(
    error: type[PipelineError], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error("the value, the rule, the remedy")
    assert isinstance(raised, BUILTIN[error])
    copy = pickle.loads(pickle.dumps(raised))  # as it comes out of another process
    assert (type(copy), str(copy)) == (error, "the value, the rule, the remedy")

    def fail() -> None:
        raise raised

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == "error: the value, the rule, the remedy"


@pytest.mark.parametrize("error", BUILTIN)
def test_a_full_disk_around_it_does_not_rename_it(error: type[PipelineError]) -> None:
    raised = error(f"cannot be written ({os.strerror(ENOSPC)}); free the disk")
    with pytest.raises(error) as caught, disk_errors("somewhere"):
        raise raised
    assert caught.value is raised


def test_memory_that_ran_out_is_told_once() -> None:
    with pytest.raises(DeviceError) as caught, enough_memory("outer"), enough_memory("inner"):
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    assert str(caught.value).endswith("; inner")
    assert str(caught.value).count("ran out") == 1


@pytest.mark.parametrize("error", BUILTIN)
def test_a_model_that_cannot_be_built_says_why(error: type[PipelineError], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(blueprint: Any) -> None:
        raise error("no such decoder")

    monkeypatch.setattr(inverter, "load_model", lambda models: ({}, {"blueprint": {}}))
    monkeypatch.setattr(inverter.Blueprint, "parse", fail)
    with pytest.raises(error, match=r"^no such decoder$"):
        inverter.load_inverter(Path("models"), torch.device("cpu"))


def test_a_damaged_description_is_a_checkpoint_error_still(tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_text("{")
    with pytest.raises(CheckpointError):
        load_model(tmp_path)


class Refusing(nn.Module):
    """Stands for an inverter whose forward pass raises."""

    decoder, device = object(), torch.device("cpu")
    blueprint = SimpleNamespace(inputs=Inputs(((1, 1, 1),)))

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, features: Inputs[torch.Tensor]) -> None:
        raise self.error


@pytest.mark.parametrize("error", [ShapeError("an odd grid"), ParamsError("no such option")], ids=str)
def test_a_batch_of_one_is_blamed_for_what_torch_refuses_alone(error: PipelineError) -> None:
    params = load_params(PARAMS, ["train.protocol=fast", "protocols.fast.batch_size=1"])
    with pytest.raises(type(error), match=rf"^{error}$"):
        check_batches(Refusing(error), params, 5)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="leave a batch of one"):
        check_batches(Refusing(ValueError("more than 1 value per channel")), params, 5)  # type: ignore[arg-type]
