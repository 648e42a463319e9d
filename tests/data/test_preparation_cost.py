"""What prepare costs: memory, processor time, and that it decodes on several cores at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photo_trees import save, save_all, small_params
from PIL import Image

from pipeline.data.preparation import run as preparation
from pipeline.data.preparation import shards
from pipeline.data.preparation.run import prepare

TESTS = Path(__file__).parents[1] / "support"


def test_two_workers_decode_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each photograph waits until another one is being decoded, which one worker alone would wait for in vain."""
    together = threading.Barrier(2, timeout=30)

    def decode(*arguments: object, inner: Callable[..., object] = shards.decode, **named: object) -> object:
        together.wait()
        return inner(*arguments, **named)

    monkeypatch.setattr(shards, "decode", decode)
    params = small_params("folder", save_all(tmp_path / "photographs", (f"{i:02d}.png" for i in range(30))))
    prepare(params, tmp_path / "prepared", tmp_path / "work", workers=2)
    assert not together.broken


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores a process may use")
def test_a_thread_for_each_core_that_the_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def write_shards(*arguments: Any, inner: Callable[..., Any] = preparation.write_shards) -> Any:
        asked.append(arguments[-1])
        return inner(*arguments)

    monkeypatch.setattr(preparation, "write_shards", write_shards)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5})
    params = small_params("folder", save_all(tmp_path / "photographs", (f"{i:02d}.png" for i in range(30))))
    prepare(params, tmp_path / "prepared", tmp_path / "work")
    assert asked == [3]


MEMORY = """
import resource, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from photo_trees import small_params
from pipeline.data.preparation.run import prepare
folder = Path({folder!r})
params = small_params("folder", folder / "photographs", "prepare.size=256")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(params, folder / "prepared", folder / "work", workers=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    save_all(tmp_path / "photographs", (f"{i:04d}.jpg" for i in range(1200)))
    child = MEMORY.format(tests=str(TESTS), root=str(TESTS.parent), folder=str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", child], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    written = sum(path.stat().st_size for path in (tmp_path / "prepared/images").iterdir())
    assert written > 230e6
    assert int(result.stdout) * 1024 < 90e6


@pytest.mark.slow
def test_it_costs_little_more_than_decoding_and_resizing(tmp_path: Path) -> None:
    """CPU time, less than twice: nothing is decoded or resized again. How much less, benchmarks/prepare.py says."""
    for i in range(60):
        save(tmp_path / f"photographs/{i}.jpg", i, height=375, width=500)
    paths = sorted((tmp_path / "photographs").iterdir())
    params = small_params("folder", tmp_path / "photographs", "prepare.size=256")

    def plain() -> None:
        for path in paths:
            np.asarray(Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC))

    def whole() -> None:
        prepare(params, tmp_path / "prepared", tmp_path / "work", workers=2)

    seconds = {plain: 1e9, whole: 1e9}
    for _ in range(6):
        for work in seconds:
            start = time.process_time()
            work()
            seconds[work] = min(seconds[work], time.process_time() - start)
    assert seconds[whole] < 2 * seconds[plain]
