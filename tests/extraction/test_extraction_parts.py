"""Several processes extract shards of their own, and their store has the bytes of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from messages import says
from shards_of_nine import small_shards  # noqa: F401  (autouse)
from small_stores import small_extraction, small_params, tree

from pipeline.core.errors import StoreError
from pipeline.extraction.workspace import Workspace, clean

FORMATS = ["zarr", "hdf5"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_make_the_same_bytes_as_one_process(tmp_path: Path, format: str, order: tuple[int, ...]) -> None:
    store = small_params(format=format)
    small_extraction(tmp_path / "one", store)
    complete = [small_extraction(tmp_path / "parts", store, part=(index, 3)) for index in order]
    assert complete == [False, False, True]
    assert tree(tmp_path / "parts") == tree(tmp_path / "one")


def test_more_parts_than_shards(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    assert [small_extraction(tmp_path, part=(index, 8)) for index in range(8)].count(True) >= 1
    assert tree(tmp_path / "features") == undisturbed


HOLDER = """
import sys
from pathlib import Path
from pipeline.extraction.workspace import Workspace
space = Workspace(Path("work"), "small", {"facts": 1})
with space.lock(range(int(sys.argv[1]), int(sys.argv[2]))):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the shards 0 to 2."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "0", "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    space = Workspace(Path("work"), "small", {"facts": 1})
    for shards in (range(5), range(2, 3)):
        with pytest.raises(StoreError) as error, space.lock(shards):
            pass
        says(error.value, "another process is extracting small", space.path, "--shards 0/2 and --shards 1/2")
    for shards in (range(3, 5), range(0)):  # shards that it does not hold
        with space.lock(shards):
            pass
    assert clean(Path("work")) == []  # in use: not a leftover
    holder.kill()  # kill -9: nothing is cleaned up, the lock ends all the same
    holder.wait()
    with space.lock(range(5)):
        pass
    assert clean(Path("work")) == [space.path]
