"""Copies between the CPU and a device, concurrent with its kernels."""

from __future__ import annotations

import torch
from torch import Tensor


class Link:
    """Uploads to and downloads from a GPU, each on a stream of its own; on the CPU nothing is copied.

    A batch's photographs are uploaded while an earlier batch is computed, and its features are downloaded while the
    next batch is. With one stream for both, photographs would wait behind the features of an earlier batch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if cuda else None
        self._down = torch.cuda.Stream(device) if cuda else None

    def upload(self, values: Tensor) -> Tensor:
        """Start to copy `values`, in pinned memory, to the device; use them after `arrived`."""
        if self._up is None:
            return values
        try:
            with torch.cuda.stream(self._up):
                return values.to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:  # an earlier batch fills the device; `arrived` tries again after it
            return values

    def arrived(self, values: Tensor) -> Tensor:
        """The result of `upload`, or a part of it, ready for the current stream."""
        if self._up is None:
            return values
        if not values.is_cuda:
            return values.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._up)
        values.record_stream(computing)  # the memory belongs to the other stream
        return values

    def download(self, values: Tensor) -> Tensor:
        """Copy `values`, as computed by the current stream, to pinned memory; valid after the event of `downloaded`."""
        if self._down is None:
            return values
        # torch reuses pinned memory, so after the first few batches this allocates nothing
        arriving = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            arriving.copy_(values, non_blocking=True)
        values.record_stream(self._down)
        return arriving

    def downloaded(self) -> torch.Event | None:
        """The event after which all downloads so far are complete; None on the CPU, where they are at once."""
        return None if self._down is None else self._down.record_event()
