"""Real processes: killed with SIGKILL at any moment, out of disk, and with memory that does not grow with the data."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from messages import says
from nursery import Nursery
from shipped import extract_params
from small_stores import SmallBackbone, SmallData, small_extraction, small_params, tree

from pipeline.core.errors import StoreError
from pipeline.extraction import run
from pipeline.stores import layout
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.slow

FORMATS = ["zarr", "hdf5"]
SMALL_MEGABYTE = 4_000  # three rows in a shard: 14 shards


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MEGABYTE", SMALL_MEGABYTE)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("test_extraction_killed") as nursery:
        yield nursery


def extract_slowly(root: str, format: str) -> None:
    layout.MEGABYTE = SMALL_MEGABYTE
    small_extraction(Path(root), small_params(format=format), backbone=SmallBackbone(seconds=0.02))


@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_ten_moments_and_resumed_the_store_is_the_same(tmp_path: Path, nursery: Nursery, format: str) -> None:
    start = time.perf_counter()
    assert nursery.wait(nursery.start("extract_slowly", str(tmp_path / "whole"), format)) == 0
    duration = time.perf_counter() - start
    whole, partly_done = tree(tmp_path / "whole"), 0
    chance = random.Random(format)
    for moment in range(10):
        root = tmp_path / str(moment)
        child = nursery.start("extract_slowly", str(root), format)
        time.sleep(duration * (moment + chance.random()) / 10)
        os.kill(child, signal.SIGKILL)
        nursery.wait(child)
        finished = len(list(root.glob("work/extract/*/done/*.json")))
        partly_done += 0 < finished < 14
        complete = (root / "features").exists()  # the kill came after the end
        if not complete:
            with pytest.raises(StoreError):
                open_store(root / "features/small/deep")
        backbone = SmallBackbone()
        small_extraction(root, small_params(format=format), backbone=backbone)
        assert tree(root) == whole
        assert backbone.seen == (0 if complete else 40 - min(40, 3 * finished))
    assert partly_done >= 3


# Processes at the same time


def extract_part(root: str, format: str, index: str, parts: str) -> None:
    layout.MEGABYTE = SMALL_MEGABYTE
    try:
        complete = small_extraction(
            Path(root),
            small_params(format=format),
            backbone=SmallBackbone(seconds=0.005),
            part=(int(index), int(parts)),
        )
    except StoreError as error:
        Path(f"{root}.{index}").write_text(str(error))
    else:
        Path(f"{root}.{index}").write_text(str(complete))


@pytest.mark.parametrize("format", FORMATS)
def test_processes_with_shards_of_their_own_make_the_bytes_of_one(
    tmp_path: Path, nursery: Nursery, format: str
) -> None:
    small_extraction(tmp_path / "one", small_params(format=format))
    for attempt in range(5):
        root = tmp_path / f"parts{attempt}"
        children = [nursery.start("extract_part", str(root), format, index, "3") for index in "012"]
        assert [nursery.wait(child) for child in children] == [0, 0, 0]
        said = [Path(f"{root}.{index}").read_text() for index in "012"]
        assert set(said) <= {"True", "False"}
        assert "True" in said
        assert tree(root) == tree(tmp_path / "one")


def test_processes_at_the_same_shards_are_refused(tmp_path: Path, nursery: Nursery) -> None:
    small_extraction(tmp_path / "one")
    root = tmp_path / "same"
    first = nursery.start("extract_slowly", str(root), "zarr")
    while not list(root.glob("work/extract/*/done/*.json")):
        time.sleep(0.005)
    nursery.wait(nursery.start("extract_part", str(root), "zarr", "0", "2"))
    assert Path(f"{root}.0").read_text().startswith("another process is extracting small in ")
    assert nursery.wait(first) == 0
    assert tree(root) == tree(tmp_path / "one")


# A disk that fills: a small tmpfs where mounting is allowed, otherwise a limit on the size of files.


def extract_within_limits(root: str, format: str, limit: str) -> None:
    layout.MEGABYTE = SMALL_MEGABYTE
    run.free_bytes = lambda path: 10**12  # something else eats the disk after the check
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if limit != "none":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        small_extraction(Path(root), small_params(format=format))
    except StoreError as error:
        Path(f"{root}.said").write_text(str(error)[:1500])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB; the store needs about 90."""
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(root)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield root
    subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_sentence_and_the_store_resumes(
    small_disk: Path, tmp_path: Path, nursery: Nursery, format: str
) -> None:
    assert nursery.wait(nursery.start("extract_within_limits", str(small_disk), format, "none")) == 0
    says(
        Path(f"{small_disk}.said").read_text(),
        f"{small_disk}/work is full",
        "free some space",
        "run the same command again",
    )
    assert not list(small_disk.rglob("*.part"))  # what could not be finished is given back
    finished = len(list(small_disk.glob("work/extract/*/done/*.json")))
    assert 0 < finished < 14
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    backbone = SmallBackbone()
    small_extraction(small_disk, small_params(format=format), backbone=backbone)
    assert backbone.seen == 40 - 3 * finished
    small_extraction(tmp_path / "whole", small_params(format=format))
    assert tree(small_disk) == tree(tmp_path / "whole")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("limit", ["500", "1500", "3000"])
def test_a_failed_write_is_one_sentence_and_the_store_resumes(
    tmp_path: Path, nursery: Nursery, format: str, limit: str
) -> None:
    root = tmp_path / "limited"
    assert nursery.wait(nursery.start("extract_within_limits", str(root), format, limit)) == 0
    assert Path(f"{root}.said").read_text().startswith(f"the disk that holds {root}/work is full; free some space")
    small_extraction(root, small_params(format=format))
    small_extraction(tmp_path / "whole", small_params(format=format))
    assert tree(root) == tree(tmp_path / "whole")


# Memory


class RepeatedData(SmallData):
    """Any number of rows in the memory of 1,000."""

    def __init__(self, rows: int) -> None:
        super().__init__(1000)
        self._length = rows

    def __len__(self) -> int:
        return self._length

    def crops(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        return super().crops(rows % 1000, out)


def extract_and_tell_peak(root: str, format: str, rows: str) -> None:
    layout.MEGABYTE = 1_000_000
    settings, stored = extract_params(batch_size=50), small_params(format=format, dtype="float32")
    small_extraction(Path(root), stored, data=RepeatedData(int(rows)), settings=settings)
    Path(f"{root}.peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_data(tmp_path: Path, nursery: Nursery, format: str) -> None:
    peaks, written = [], []  # bytes
    for rows in ("1000", "15000"):
        root = tmp_path / rows
        assert nursery.wait(nursery.start("extract_and_tell_peak", str(root), format, rows)) == 0
        peaks.append(1024 * int(Path(f"{root}.peak").read_text()))
        written.append(sum(path.stat().st_size for path in (root / "features").rglob("*") if path.is_file()))
    assert written[1] - written[0] > 40e6
    assert peaks[1] - peaks[0] < 0.5 * (written[1] - written[0])
