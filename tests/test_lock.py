"""A work folder belongs to one process at a time, until it ends, however it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import LockedError
from pipeline.lock import locked

HOLDER = """
import sys
from pathlib import Path
from pipeline.lock import locked
with locked(Path(sys.argv[1]), "at it"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder `held`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "held")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedError) as error, locked(tmp_path / "held", "preparing photographs"):
        pass
    assert str(error.value) == (
        f"another process is preparing photographs in {tmp_path / 'held'}; wait until it ends, then run this again"
    )
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
