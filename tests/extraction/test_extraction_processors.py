"""Equal bytes on one machine, whichever: a run that was killed and resumed in parts is one that was left alone.

Other processors are simulated: torch and oneDNN are told which instructions to use, with one thread or two.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from nursery import Nursery
from small_stores import ROUNDING, SmallBackbone, SmallData, apart, small_extraction, small_params, tree

from pipeline.stores import layout
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.slow

SMALL_MEGABYTE = 80_000  # nine rows of 32 pixels in a shard: three batches of three
ROWS, KILLED_AT = 40, 20
PARTS = 2
PROCESSORS = {
    "this": {},
    "this, two threads": {"OMP_NUM_THREADS": "2"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX2, two threads": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"},
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `extract_small` sets in this process ends with the test."""
    monkeypatch.setattr(layout, "MEGABYTE", SMALL_MEGABYTE)


class Killed(SmallBackbone):
    """Its process ends as by kill -9 when it is given its `KILLED_AT`-th row."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.seen + len(images) > KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def extract_small(root: Path, backbone: SmallBackbone, part: tuple[int, int] = (0, 1)) -> bool:
    layout.MEGABYTE = SMALL_MEGABYTE
    data = SmallData(ROWS, crop=32)
    return small_extraction(root, small_params(dtype="float32"), data=data, backbone=backbone, part=part)


def whole_then_killed(root: str) -> None:
    extract_small(Path(root) / "whole", SmallBackbone())
    extract_small(Path(root) / "resumed", Killed())


def resume_in_parts(root: str) -> None:
    for index in reversed(range(PARTS)):
        extract_small(Path(root) / "resumed", SmallBackbone(), (index, PARTS))


@pytest.mark.parametrize("processor", PROCESSORS)
def test_killed_and_resumed_in_parts_the_bytes_are_those_of_a_run_left_alone(tmp_path: Path, processor: str) -> None:
    with Nursery("test_extraction_processors", PROCESSORS[processor]) as nursery:
        assert nursery.wait(nursery.start("whole_then_killed", str(tmp_path))) == signal.SIGKILL
        assert len(list((tmp_path / "resumed").glob("work/extract/*/done/*.json"))) in (1, 2)  # killed half-way
        assert nursery.wait(nursery.start("resume_in_parts", str(tmp_path))) == 0
    assert tree(tmp_path / "resumed/features") == tree(tmp_path / "whole/features")
    # no promise of equal bytes between processors: the features differ by rounding
    extract_small(tmp_path / "here", SmallBackbone())
    for layer in ("shallow", "deep"):
        elsewhere, here = (open_store(tmp_path / name / "features/small" / layer) for name in ("whole", "here"))
        assert elsewhere.fingerprint == here.fingerprint
        assert apart(elsewhere.read(np.arange(ROWS)), here.read(np.arange(ROWS))) < ROUNDING
