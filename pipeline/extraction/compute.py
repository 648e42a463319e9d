"""From rows to encoded features: prefetched crops, the forward pass, and smaller batches when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import StoreError
from pipeline.core.prefetch import prefetch
from pipeline.core.runtime import enough_memory, memory_ran_out
from pipeline.extraction.job import Job
from pipeline.extraction.link import Link
from pipeline.stores.encoding import Encoded, check_range, decode, encode, rgb, row_major

READ_AHEAD = 3  # batches of crops, including the one in use
FORGET = 256 << 20  # bytes of crops after which the mapped photographs are unmapped
MEASURED_EVERY = 8  # rows; measuring every row would take a few percent of the time of a fast network

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LayerPiece:
    """Encoded rows of one layer on the CPU.

    Attributes:
        values, scales: as in `Encoded`.
        mean, squares: (n, C) float64, per row and channel the mean and the sum of squared distances from it.
        errors: (measured rows, C) float64, sums of squared errors of the stored values.
    """

    values: Tensor
    scales: Tensor | None
    mean: Tensor
    squares: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Piece:
    """Rows that went through the network together."""

    rows: Rows
    layers: dict[str, LayerPiece]
    copied: torch.Event | None  # CUDA: the layers are valid after this event

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


class Computer:
    """The backbone of a job on its device."""

    _pool: ThreadPoolExecutor  # exists while `pieces` runs, to divide the rows of one batch among threads

    def __init__(self, job: Job) -> None:
        self._job, self._device = job, job.device
        self._cuda = job.device.type == "cuda"
        # channels-last: the layout of image crops, and twice as fast in convolutions on CPU and GPU
        with enough_memory("free it, or use --device cpu"):
            self._backbone = job.backbone.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._link = Link(job.device)
        self._limit = job.batch_size  # rows in one pass; halved when the device runs out of memory
        self._read = 0  # bytes of crops since photographs were last unmapped

    def pieces(self, batches: Sequence[Rows]) -> Iterator[Piece]:
        """The features of each batch, in one piece, or in several after the device has run out of memory.

        Raises:
            StoreError: the features cannot be stored, or memory does not suffice for a single image.
        """
        with ThreadPoolExecutor(torch.get_num_threads()) as self._pool:
            crops = prefetch(batches, self._load, threads=1, ahead=READ_AHEAD)
            for rows, pixels in zip(batches, crops, strict=True):
                yield from self._split(rows, pixels)

    def _load(self, rows: Rows) -> Tensor:
        """The pixels of a batch, (B, H, W, 3) uint8, whose upload to the device has started."""
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
        """Features of `rows`, or the error if the device's memory did not suffice."""
        try:
            return self._forward(rows, pixels)
        except RuntimeError as error:
            if not memory_ran_out(error):
                raise
            refused = error.with_traceback(None)  # the traceback would keep the failed pass in memory
        if self._cuda:
            torch.cuda.empty_cache()
        return refused

    @torch.inference_mode()
    def _forward(self, rows: Rows, pixels: Tensor) -> Piece:
        images = rgb(self._link.arrived(pixels))
        features = self._backbone.compute(images, self._job.settings.precision)
        layers = {layer: self._encode(layer, features.pop(layer).float(), rows) for layer in self._job.layouts}
        return Piece(rows, layers, self._link.downloaded())

    def _encode(self, layer: str, features: Tensor, rows: Rows) -> LayerPiece:
        dtype = self._job.layouts[layer].dtype
        mean, squares = row_moments(features)
        check_range(features, mean.abs() + squares.sqrt(), dtype, f"{self._job.backbone.name}.{layer}")
        encoded = encode(features, dtype)
        scales = None if encoded.scales is None else self._link.download(encoded.scales)
        return LayerPiece(
            self._link.download(row_major(encoded.values, self._pool.map)),
            scales,
            self._link.download(mean),
            self._link.download(squares),
            self._link.download(_errors(features, encoded, dtype, rows)),
        )


def measured(rows: Rows) -> Rows:
    """Positions in `rows` where the error of the stored type is measured; they depend on row numbers alone."""
    return np.flatnonzero(rows % MEASURED_EVERY == 0)


def _errors(features: Tensor, encoded: Encoded, dtype: str, rows: Rows) -> Tensor:
    chosen = measured(rows).tolist()
    scales = None if encoded.scales is None else encoded.scales[chosen]
    errors = decode(encoded.values[chosen], scales, dtype).sub_(features[chosen])
    return torch.linalg.vector_norm(errors, dim=(2, 3), dtype=torch.float64).square_()


def row_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and sum of squared distances from it, per row and channel of (B, C, H, W): both (B, C) float64.

    The sums are over distances from one of the features, so that their error does not grow with the offset. In float64
    the square of a float32 number neither overflows nor vanishes.
    """
    # on the CPU image by image, so that the distances stay in the processor's cache
    parts = features.split(1) if features.device.type == "cpu" else (features,)
    shift, total, square = (torch.cat(each) for each in zip(*map(_shifted_sums, parts), strict=True))
    elements = features[0, 0].numel()
    return shift + total / elements, (square - total.square() / elements).clamp_min_(0)


def _shifted_sums(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first feature of each channel, sum and sum of squares of the distances from it, each (B, C) float64."""
    distances = features.double()
    shift = distances[..., :1, :1].clone()
    total = distances.sub_(shift).sum((2, 3))
    return shift[..., 0, 0], total, distances.square_().sum((2, 3))
