"""A ring of slots: a few buffers that are allocated once, filled ahead of their use, and reused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.prefetch import prefetch
from pipeline.stores.base import FeatureStore
from pipeline.stores.encoding import TORCH_DTYPES

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Stored:
    """Rows in memory, in their stored types.

    values: for each store (B, C, H, W) of its stored type. scales: (B, 2, C) float32 for int8, else None.
    pixels: (B, crop, crop, 3) uint8.
    """

    values: tuple[Tensor, ...]
    scales: tuple[Tensor | None, ...]
    pixels: Tensor

    @classmethod
    def empty(
        cls, stores: Iterable[FeatureStore], crop: int, rows: int, device: torch.device, pinned: bool = False
    ) -> Self:
        """Memory for `rows` rows of `stores` on `device`, with arbitrary contents."""

        def new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.empty((rows, *shape), dtype=dtype, device=device, pin_memory=pinned)

        layouts = [store.layout for store in stores]
        return cls(
            tuple(new(layout.row_shape, TORCH_DTYPES[layout.dtype]) for layout in layouts),
            tuple(new(layout.scales_shape, torch.float32) if layout.has_scales else None for layout in layouts),
            new((crop, crop, 3), torch.uint8),
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def tensors(self) -> list[Tensor]:
        return [t for t in (*self.values, *self.scales, self.pixels) if t is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor replaced by `change` of it."""
        scales = tuple(None if scale is None else change(scale) for scale in self.scales)
        return type(self)(tuple(change(values) for values in self.values), scales, change(self.pixels))

    def copy_(self, other: Stored) -> None:
        """Copy the contents of `other`, without waiting for a GPU."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)


@dataclass
class Slot:
    """One buffer of the ring. On the CPU `device` and `host` are the same memory."""

    new: Callable[[int], tuple[Stored, Stored]]
    host: Stored | None = None
    device: Stored | None = None
    stream: torch.cuda.Stream | None = None
    consumed: torch.cuda.Event | None = None
    rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    def reserve(self, rows: Rows) -> Stored:
        """Host memory for exactly these rows; reallocated only when there are more of them than ever before."""
        if self.host is None or len(self.host) < len(rows):
            self.host, self.device = self.new(len(rows))
            self.release()  # kernels that were queued on this memory under its earlier owner go first
        self.rows = rows
        return self.host.map(lambda t: t[: len(rows)])

    def upload(self) -> None:
        """Copy the host's rows to the GPU on the slot's own stream, after the slot's last use there has ended."""
        if self.stream is None or self.consumed is None or self.host is None or self.device is None:
            return
        count = len(self.rows)
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.consumed)
            self.device.map(lambda t: t[:count]).copy_(self.host.map(lambda t: t[:count]))
        self.stream.synchronize()  # in the reading thread: the host memory may be overwritten afterwards

    def stored(self) -> Stored:
        """The rows on the device. Valid until the ring is asked for its next slot."""
        if self.device is None:
            raise ValueError("nothing was read into this slot")
        return self.device.map(lambda t: t[: len(self.rows)])

    def release(self) -> None:
        """Record that all uses of the slot's device memory have been queued on the current stream."""
        if self.consumed is not None and self.stream is not None:
            self.consumed.record(torch.cuda.current_stream(self.stream.device))


def new_slots(count: int, stores: Iterable[FeatureStore], crop: int, device: torch.device) -> list[Slot]:
    """`count` empty slots; memory is allocated when the first batch is read."""
    cuda, cpu = device.type == "cuda", torch.device("cpu")

    def new(rows: int) -> tuple[Stored, Stored]:
        host = Stored.empty(stores, crop, rows, cpu, pinned=cuda)
        return host, Stored.empty(stores, crop, rows, device) if cuda else host

    return [
        Slot(new, stream=torch.cuda.Stream(device) if cuda else None, consumed=torch.cuda.Event() if cuda else None)
        for _ in range(count)
    ]


def fill_ahead(
    plan: Iterable[Rows], read: Callable[[Slot, Rows], None], slots: Sequence[Slot], threads: int
) -> Iterator[Slot]:
    """Yield a slot for each entry of `plan`, in order, filled by `read` in one of `threads` threads.

    A slot belongs to the caller until the caller requests the next one; then it may be refilled.
    """

    def filled(pair: tuple[Slot, Rows]) -> Slot:
        read(*pair)
        return pair[0]

    return prefetch(zip(cycle(slots), plan, strict=False), filled, threads, ahead=len(slots))
