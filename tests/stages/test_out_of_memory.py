"""A GPU whose memory runs out: each command says what to change."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline.core.errors import DeviceError
from pipeline.evaluation import run as evaluation
from pipeline.experiments import reconstruction
from pipeline.stores.prepared import PreparedData
from pipeline.training import run as training
from stages.__main__ import app

ROOT = Path(__file__).parents[2]
SCORING = "lower evaluate.batch_size or pass --device cpu"


@pytest.mark.parametrize(
    ("command", "function", "remedy"),
    [
        (["train"], (training, "train"), "set train.resident: never, lower protocols.fast.batch_size, or pass "),
        (
            ["train", "--set", "train.protocol=published"],
            (training, "train"),
            "set train.resident: never, lower protocols.published.batch_size, or pass --device cpu",
        ),
        (["evaluate"], (evaluation, "evaluate"), SCORING),
        (["reconstruct", "photograph.png"], (reconstruction, "reconstruct"), SCORING),
    ],
)
def test_it_is_one_sentence_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, command: list[str], function: tuple[object, str], remedy: str
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 78 GiB")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(*function, exhausted)
    monkeypatch.setattr(PreparedData, "open", lambda root: None)
    result = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert isinstance(result.exception, DeviceError)
    assert str(result.exception).startswith(f"the GPU's memory ran out (CUDA out of memory); {remedy}")
