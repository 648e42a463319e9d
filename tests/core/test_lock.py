"""A work folder belongs to one process at a time, until it ends, however it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from messages import says
from other_process import holding

from pipeline.core.errors import LockedError
from pipeline.core.locks import locked


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with holding(tmp_path / "held") as holder:
        with pytest.raises(LockedError) as error, locked(tmp_path / "held", "preparing photographs"):
            pass
        says(error.value, "another process is preparing photographs", tmp_path / "held", "run this again")
        with locked(tmp_path / "other", "at it"):  # other work
            pass
        holder.kill()  # kill -9: nothing is cleaned up, the lock ends all the same
        holder.wait()
        with locked(tmp_path / "held", "at it"):
            pass


def test_the_block_may_remove_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "deep/er", "at it"):
            shutil.rmtree(tmp_path / "deep")
    assert not list(tmp_path.iterdir())
