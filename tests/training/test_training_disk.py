"""A disk that fills while `train` saves: an error with the system's number, so that one sentence can be made of it."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from messages import says
from typer.testing import CliRunner

from pipeline.core.errors import StoreError
from pipeline.models.common.checkpoint import save_model
from pipeline.stores.files import disk_errors
from pipeline.stores.prepared import PreparedData
from pipeline.training import run as training
from pipeline.training.fitter import save_state
from stages.__main__ import app

ROOT = Path(__file__).parents[2]
TENSORS = {"weight": torch.arange(100_000.0)}  # 400 kB


@contextmanager
def _disk_of(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes. Python ignores the signal, so that a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 100_000, 399_000])
def test_a_state_that_does_not_fit_leaves_the_last_one(tmp_path: Path, size: int) -> None:
    save_state({"epoch": 1}, tmp_path / "work/state.pt")
    before = (tmp_path / "work/state.pt").read_bytes()
    said = r"^the disk that holds work is full; .* it goes on from what was saved$"
    with pytest.raises(StoreError, match=said), disk_errors("work", "from what was saved"), _disk_of(size):
        save_state(TENSORS, tmp_path / "work/state.pt")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["state.pt"]
    assert (tmp_path / "work/state.pt").read_bytes() == before


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_model_that_does_not_fit_is_no_model(tmp_path: Path, size: int) -> None:
    with pytest.raises(OSError) as error, _disk_of(size):
        save_model(tmp_path, TENSORS, {})
    assert error.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_train_says_which_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(training, "train", full)
    monkeypatch.setattr(PreparedData, "open", lambda root: None)
    result = CliRunner().invoke(app, ["train", "--work", "w", "--models", "m", "--device", "cpu"])
    says(result.exception, "w or m is full", "free some space", "run the same command again")
