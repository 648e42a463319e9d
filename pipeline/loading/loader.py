"""Batches for training and evaluation: cached features with their target crops, prefetched.

Threads of this process read ahead into buffers that are allocated once (pinned for CUDA); worker processes would
spend their time moving arrays between processes. Features that fit in memory are read once and stay on the device: a
batch is then one `index_select`. Features keep their stored type until they are on the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
import psutil
import torch
from torch import Tensor

from pipeline.core.errors import StoreError
from pipeline.core.progress import counted
from pipeline.core.sources import Inputs
from pipeline.loading.slots import Rows, Slot, Stored, fill_ahead, new_slots
from pipeline.stores.base import FeatureStore
from pipeline.stores.encoding import as_numpy, decode, rgb
from pipeline.stores.manifest import remedy
from pipeline.stores.prepared import PreparedData

Resident = Literal["auto", "never", "always"]
ROOM = 0.5  # fraction of the free memory that resident features may take
LOADED_AT_ONCE = 64 << 20  # bytes of features in one batch while they are loaded
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # exists in a container
MEMORY_USED = Path("/sys/fs/cgroup/memory.current")
MEMORY_STAT = Path("/sys/fs/cgroup/memory.stat")


class Example(Protocol):
    """A batch of an inverter's inputs, with the target images (B, 3, H, W), RGB in [0, 1]."""

    @property
    def inputs(self) -> Inputs[Tensor]: ...
    @property
    def targets(self) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """An `Example`: rows of an experiment on its device.

    rows: (B,) row numbers. inputs: (B, C, H, W) float32 each.
    targets: (B, 3, crop, crop) float32 RGB in [0, 1], channels-last in memory.
    """

    rows: Rows
    inputs: Inputs[Tensor]
    targets: Tensor


class CachedFeatures:
    """The inputs of an inverter and their targets; equal row numbers are the same view.

    Args:
        resident: `always` keeps everything on the device, `never` reads every batch from disk, `auto` keeps everything
            if it takes at most half of the free memory.
        threads: batches read at the same time. ahead: batches kept ready beyond the one in use.

    Attributes:
        resident: whether everything is on the device.
        waited: seconds that callers of `batches` waited for it: reading that was not done ahead, and decoding.

    Raises:
        StoreError: a store was made from other prepared data, is damaged, or `resident: always` does not fit.
    """

    def __init__(
        self,
        data: PreparedData,
        stores: Inputs[FeatureStore],
        device: torch.device,
        resident: Resident = "auto",
        threads: int = 2,
        ahead: int = 3,
    ) -> None:
        for store in stores:
            if store.data_fingerprint != data.fingerprint or store.rows != len(data):
                raise StoreError(
                    f"{store.path} is stale: it holds {counted(store.rows, 'row')} of prepared data "
                    f"{store.data_fingerprint[:12]}…, not the {len(data)} of {data.fingerprint[:12]}… in {data.root}; "
                    f"{remedy(store.path)}"
                )
        self.data, self.stores, self.device = data, stores, device
        self.waited = 0.0
        self._threads, self._slots = threads, new_slots(ahead + 1, self.stores, data.crop, device)
        self.resident = _stays(resident, self._row_bytes() * len(data), device)
        self._kept: Stored | None = None
        if self.resident:
            self._kept = self._load()

    def batches(self, plan: Iterable[Rows]) -> Iterator[Batch]:
        """Yield a batch for each array of row numbers in `plan`, in order. Only one iteration may run at a time.

        Raises:
            StoreError, DataError: a shard is damaged. IndexError: there is no such row.
        """
        plan, kept = map(self._checked, plan), self._kept
        # on the CPU, rows in memory are gathered ahead too, in the ring's threads
        made = self._read_ahead(plan) if kept is None or self.device.type == "cpu" else self._selected(kept, plan)
        while True:
            start = time.perf_counter()
            batch = next(made, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    @property
    def exceeds_memory(self) -> bool:
        """Whether the files exceed the machine's memory; then `sampler.windowed_plan` reads long runs.

        The total memory decides, not the free memory, because the order of training must not change while it runs.
        """
        return self._row_bytes() * len(self.data) > memory_size()

    def close(self) -> None:
        """Free the memory. Later batches are read from disk."""
        self._kept, self._slots = None, new_slots(len(self._slots), self.stores, self.data.crop, self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, rows: Rows) -> Rows:
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.data):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self.data)}")
        return rows

    def _read_ahead(self, plan: Iterable[Rows]) -> Iterator[Batch]:
        for slot in fill_ahead(plan, self._read, self._slots, self._threads):
            batch = self._decoded(slot.rows, slot.stored())
            slot.release()
            yield batch

    def _selected(self, kept: Stored, plan: Iterable[Rows]) -> Iterator[Batch]:
        for rows in plan:
            chosen = torch.from_numpy(rows).to(self.device, non_blocking=True)
            yield self._decoded(rows, kept.map(lambda t, chosen=chosen: t.index_select(0, chosen)))  # type: ignore[misc]

    def _read(self, slot: Slot, rows: Rows) -> None:
        host = slot.reserve(rows)
        if self._kept is None:
            for store, values, scales in zip(self.stores, host.values, host.scales, strict=True):
                store.read_into(rows, as_numpy(values))
                if scales is not None:
                    store.read_scales_into(rows, scales.numpy())
            self.data.crops(rows, host.pixels.numpy())
        else:
            for target, kept in zip(host.tensors(), self._kept.tensors(), strict=True):
                np.take(as_numpy(kept), rows, axis=0, out=as_numpy(target), mode="clip")
        slot.upload()

    def _decoded(self, rows: Rows, stored: Stored) -> Batch:
        def decoded(store: FeatureStore, values: Tensor, scales: Tensor | None) -> Tensor:
            return decode(values, scales, store.dtype)

        return Batch(rows, self.stores.map(decoded, stored.values, stored.scales), rgb(stored.pixels))

    def _load(self) -> Stored:
        """Everything, read once in order."""
        kept = Stored.empty(self.stores, self.data.crop, len(self.data), self.device)
        step = max(1, LOADED_AT_ONCE // self._row_bytes())
        plan = (np.arange(first, min(first + step, len(self.data))) for first in range(0, len(self.data), step))
        for slot in fill_ahead(plan, self._read, self._slots, self._threads):
            first, last = int(slot.rows[0]), int(slot.rows[-1])
            kept.map(lambda t, a=first, b=last: t[a : b + 1]).copy_(slot.stored())  # type: ignore[misc]
            slot.release()
        self._slots = new_slots(len(self._slots), self.stores, self.data.crop, self.device)  # smaller than for loading
        return kept

    def _row_bytes(self) -> int:
        return sum(store.layout.row_bytes for store in self.stores) + 3 * self.data.crop**2


def memory_size() -> int:
    """Bytes of main memory of this machine, or of the container's limit if that is lower."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = MEMORY_LIMIT.read_text().strip() if MEMORY_LIMIT.is_file() else "max"
    return size if limit == "max" else min(size, int(limit))


def free_memory(device: torch.device) -> int:
    """Free bytes on `device`: of the GPU, or of main memory within a container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free: int = psutil.virtual_memory().available
    if MEMORY_LIMIT.is_file() and (limit := MEMORY_LIMIT.read_text().strip()) != "max":
        stat = dict(line.split() for line in MEMORY_STAT.read_text().splitlines()) if MEMORY_STAT.is_file() else {}
        page_cache = int(stat.get("inactive_file", 0))  # the kernel frees these cached files on demand
        free = min(free, int(limit) - int(MEMORY_USED.read_text()) + page_cache)
    return free


def _stays(resident: Resident, size: int, device: torch.device) -> bool:
    if resident == "never":
        return False
    free = free_memory(device)
    if resident == "always" and size > free:
        raise StoreError(
            f"train.resident = always: features and crops need {size / 1e9:.1f} GB, {device} has {free / 1e9:.1f} GB "
            "free; use auto or never"
        )
    return resident == "always" or size <= ROOM * free
