"""When the ring's copies to a GPU wait, and for what: on the CPU, with a stream and an event that write down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.loading.slots import Slot, Stored


class _Log(list[str]):
    """What happened, in order; a stream and an event at once, as far as a slot uses them."""

    device = torch.device("cuda")

    def record(self, stream: str) -> None:
        self.append(f"record on {stream}")

    def wait_event(self, event: _Log) -> None:
        assert event is self
        self.append("wait")

    def synchronize(self) -> None:
        self.append("synchronize")

    def new(self, rows: int) -> tuple[Stored, Stored]:
        self.append(f"new {rows}")
        host, device = (Stored((), (), torch.zeros(rows, 2, 2, 3, dtype=torch.uint8)) for _ in range(2))
        return host, device


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> _Log:
    found = _Log()

    @contextmanager
    def stream(which: object) -> Iterator[None]:
        assert which is found
        found.append("upload")
        yield

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the current stream")
    return found


def test_an_upload_waits_for_what_was_queued_on_memory_that_is_new(log: _Log) -> None:
    """Its last owner's kernels, or one that fills it, may not have run yet."""
    slot = Slot(log.new, stream=log, consumed=log)  # type: ignore[arg-type]
    slot.reserve(np.arange(3)).pixels.fill_(7)
    slot.upload()
    assert log == ["new 3", "record on the current stream", "upload", "wait", "synchronize"]
    assert (slot.stored().pixels == 7).all()


def test_an_upload_waits_for_the_last_use_of_the_slot(log: _Log) -> None:
    slot = Slot(log.new, stream=log, consumed=log)  # type: ignore[arg-type]
    slot.reserve(np.arange(3))
    log.clear()
    slot.release()
    slot.reserve(np.arange(2))
    slot.upload()
    assert log == ["record on the current stream", "upload", "wait", "synchronize"]
