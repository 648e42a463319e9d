"""Rows → encoded features on the CPU: reading ahead, the forward pass, and what to do when memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import StoreError
from pipeline.core.runtime import computing_in, enough_memory, memory_ran_out
from pipeline.extraction.job import Job
from pipeline.extraction.link import Link
from pipeline.stores.encoding import check_range, encode, rgb, row_major

READ_AHEAD = 2  # batches of crops
FORGET = 256 << 20  # bytes of crops after which the mapped photographs behind them are let go

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LayerPiece:
    """Encoded rows of one layer on the CPU, and their sums per row and channel: total and square, (n, C)."""

    values: Tensor
    scales: Tensor | None
    total: Tensor
    square: Tensor


@dataclass(frozen=True)
class Piece:
    """Rows that went through the network together."""

    rows: Rows
    layers: dict[str, LayerPiece]
    copied: torch.Event | None  # CUDA: the layers are valid once this has happened

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


class Computer:
    """The backbone of a job on its device."""

    _pool: ThreadPoolExecutor  # while `pieces` runs

    def __init__(self, job: Job) -> None:
        self._job, self._device = job, job.device
        self._cuda = job.device.type == "cuda"
        # channels-last is what crops of images are anyway, and twice as fast in convolutions on CPU and GPU
        with enough_memory("free it, or use --device cpu"):
            self._backbone = job.backbone.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._link = Link(job.device)
        self._limit = job.batch_size  # rows in one pass; halved when the device runs out of memory
        self._read = 0  # bytes of crops since photographs were last let go

    def pieces(self, batches: Sequence[Rows]) -> Iterator[Piece]:
        """The features of each batch: in one piece, or in several once the device has run out of memory.

        Raises:
            StoreError: features that cannot be stored, or no memory for a single image.
        """
        with ThreadPoolExecutor(torch.get_num_threads()) as self._pool:
            for rows, pixels in zip(batches, self._crops(batches), strict=True):
                yield from self._split(rows, pixels)

    def _crops(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """The pixels of each batch, (B, H, W, 3) uint8, read ahead and on their way to the device."""
        coming = iter(batches)
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as loader:
            pending = deque(loader.submit(self._load, rows) for rows in islice(coming, READ_AHEAD))
            while pending:
                pixels = pending.popleft().result()
                if (rows := next(coming, None)) is not None:
                    pending.append(loader.submit(self._load, rows))
                yield pixels

    def _load(self, rows: Rows) -> Tensor:
        crop = self._job.data.crop
        pixels = torch.empty((len(rows), crop, crop, 3), dtype=torch.uint8, pin_memory=self._cuda)
        self._job.data.crops(rows, pixels.numpy())
        self._read += pixels.nbytes
        if self._read > FORGET:
            self._job.data.forget()
            self._read = 0
        return self._link.upload(pixels)

    def _split(self, rows: Rows, pixels: Tensor) -> Iterator[Piece]:
        start = 0
        while start < len(rows):
            chosen = slice(start, start + self._limit)
            piece = self._attempt(rows[chosen], pixels[chosen])
            if isinstance(piece, RuntimeError):
                self._lower_limit(min(self._limit, len(rows) - start), piece)
            else:
                start += len(piece.rows)
                yield piece

    def _lower_limit(self, tried: int, error: RuntimeError) -> None:
        if tried == 1:
            raise StoreError(
                f"{self._device} has no room for one image of {self._job.data.crop} pixels in "
                f"{self._job.backbone.name} ({str(error).partition('. ')[0]}); free its memory, or use --device cpu"
            ) from error
        self._limit = -(-tried // 2)

    def _attempt(self, rows: Rows, pixels: Tensor) -> Piece | RuntimeError:
        """Features of `rows`, or what was said when the device's memory did not suffice."""
        try:
            return self._forward(rows, pixels)
        except RuntimeError as error:
            if not memory_ran_out(error):
                raise
            refused = error.with_traceback(None)  # which would hold what the failed pass does
        if self._cuda:
            torch.cuda.empty_cache()
        return refused

    @torch.inference_mode()
    def _forward(self, rows: Rows, pixels: Tensor) -> Piece:
        images = rgb(self._link.arrived(pixels))
        with computing_in(self._job.settings.precision, self._device):
            features = self._backbone(images)
        layers = {layer: self._encode(layer, features.pop(layer).float()) for layer in self._job.layouts}
        return Piece(rows, layers, self._link.downloaded())

    def _encode(self, layer: str, features: Tensor) -> LayerPiece:
        dtype = self._job.layouts[layer].dtype
        total, square = sums(features)
        check_range(features, square, dtype, f"{self._job.backbone.name}.{layer}")
        encoded = encode(features, dtype)
        scales = None if encoded.scales is None else self._link.download(encoded.scales)
        return LayerPiece(
            self._link.download(row_major(encoded.values, self._pool.map)),
            scales,
            self._link.download(total),
            self._link.download(square),
        )


def sums(features: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares per row and channel, both (B, C)."""
    if features.device.type != "cpu":
        return features.sum((2, 3)), features.square().sum((2, 3))
    # image by image, so that the squares never leave the processor's cache
    squares = [image.square().sum((1, 2)) for image in features]
    return features.sum((2, 3)), torch.stack(squares)
