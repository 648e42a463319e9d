"""Copies between the CPU and the device of a computation, beside its kernels."""

from __future__ import annotations

import torch
from torch import Tensor


class Link:
    """To and from a GPU, each way on a stream of its own; on the CPU nothing is copied.

    A batch's photographs go up while an earlier batch is computed, and its features come down while the next one is.
    One stream for both ways would not do: photographs would wait behind the features of an earlier batch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if cuda else None
        self._down = torch.cuda.Stream(device) if cuda else None

    def upload(self, values: Tensor) -> Tensor:
        """Start to bring `values`, in pinned memory, to the device; `arrived` says when they may be used."""
        if self._up is None:
            return values
        try:
            with torch.cuda.stream(self._up):
                return values.to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:  # an earlier batch fills the device: `arrived` tries again after it
            return values

    def arrived(self, values: Tensor) -> Tensor:
        """What `upload` gave, or a part of it, for all that the current stream does from now on."""
        if self._up is None:
            return values
        if not values.is_cuda:
            return values.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._up)
        values.record_stream(computing)  # the memory belongs to the other stream
        return values

    def download(self, values: Tensor) -> Tensor:
        """`values`, as the current stream leaves them, in pinned memory: valid after the event of `downloaded`."""
        if self._down is None:
            return values
        # torch keeps pinned memory for the next batch, so this allocates nothing after the first few
        arriving = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            arriving.copy_(values, non_blocking=True)
        values.record_stream(self._down)
        return arriving

    def downloaded(self) -> torch.Event | None:
        """Happens when all that was asked for so far has come down. None: it is there already."""
        return None if self._down is None else self._down.record_event()
