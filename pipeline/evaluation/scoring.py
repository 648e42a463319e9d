"""Scores of a stream of batches, beside those of their floors and ceilings; no image is kept in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import DataError
from pipeline.evaluation import baselines
from pipeline.evaluation.spectrum import octave_energy
from pipeline.metrics.perceptual import FeatureDistance
from pipeline.metrics.scores import capped_psnr, check_eight_bit, score, ssim
from pipeline.metrics.similarity import Lpips

SWAP_MARGIN = 3.0  # dB that swapping red and blue may gain by chance; a larger gain means BGR

Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class References:
    """Inputs of the baselines: the training images' mean colour, the feature grid, the bytes of one row."""

    colour: Tensor  # (3,)
    grid: tuple[int, int]
    feature_bytes: int


@dataclass(frozen=True)
class Energies:
    """Energy of the images and of the errors by octave, (octaves,), summed over images `edge` pixels wide."""

    edge: int
    image: NDArray[np.float64]
    error: NDArray[np.float64]


def baseline_scores(
    targets: Tensor, crops: NDArray[np.uint8], references: References, further: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """PSNR and SSIM of floors and ceilings, (B,) each: mean colour, bicubic thumbnail, `further` images, JPEG.

    `crops` are the targets as 8-bit (B, H, W, 3).
    """
    decoded, sizes = baselines.jpeg(crops, references.feature_bytes, workers=os.cpu_count() or 1)
    images = {
        "mean_colour": baselines.flat(targets, references.colour),
        "bicubic": baselines.thumbnail(targets, references.grid),
        **further,
        "jpeg": torch.from_numpy(decoded).to(targets.device).permute(0, 3, 1, 2).float() / 255,
    }
    found: dict[str, Tensor] = {}
    for name, image in images.items():
        found |= {f"{name}_psnr": capped_psnr(image, targets), f"{name}_ssim": ssim(image, targets)}
    return found | {"jpeg_bytes": torch.from_numpy(sizes)}


class Tally:
    """Columns of per-image numbers, and energies by octave, over all batches so far.

    Memory for all `images` is allocated at once: many small tensors between short-lived large ones would fragment the
    heap and grow the process by gigabytes.
    """

    def __init__(
        self, references: References, images: int, perceptual: Lpips | None = None, judge: FeatureDistance | None = None
    ) -> None:
        self.references, self.perceptual, self.judge = references, perceptual, judge
        self._images, self._done = images, 0
        self._columns: Columns = {}
        self._energy: Tensor | None = None  # (2, octaves): images, errors
        self._edge = 0

    @torch.inference_mode()
    def add(
        self,
        predictions: Tensor,
        targets: Tensor,
        crops: NDArray[np.uint8],
        further_baselines: Mapping[str, Tensor] | None = None,
        further_columns: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Score one batch of images (B, 3, H, W) and its baselines.

        Args:
            crops: the targets as 8-bit (B, H, W, 3).
            further_baselines: images (B, 3, H, W) to score, by name. further_columns: per-image numbers (B,), by name.

        Raises:
            ValueError: predictions or targets break the metric contract (range, dtype, not 8-bit targets).
        """
        scores = score(predictions, targets, self.perceptual, self.judge)
        check_eight_bit(targets)
        self._append({**scores, **(further_columns or {}), "swapped_psnr": capped_psnr(predictions.flip(1), targets)})
        self._append(baseline_scores(targets, crops, self.references, further_baselines or {}))
        pair = torch.stack([octave_energy(x).double().sum(0) for x in (targets, predictions - targets)])
        self._energy = pair if self._energy is None else self._energy + pair
        self._edge = min(targets.shape[-2:])
        self._done += len(targets)

    def columns(self) -> Columns:
        """Every column over all images, in the order they were added.

        Raises:
            DataError: reconstructions fit their targets better with red and blue swapped.
        """
        assert self._done == self._images, f"{self._done} of {self._images} images were added"
        columns = dict(self._columns)
        gain = float(columns.pop("swapped_psnr").mean() - columns["psnr"].mean())
        if gain > SWAP_MARGIN:
            raise DataError(
                f"the reconstructions fit their photographs {gain:.1f} dB better with red and blue swapped: something "
                "is BGR; prepare, extract and train again from RGB photographs"
            )
        return columns

    def energies(self) -> Energies:
        assert self._energy is not None, "no batch was added"
        image, error = self._energy.cpu().numpy()
        return Energies(self._edge, image, error)

    def _append(self, columns: Mapping[str, Tensor]) -> None:
        for name, values in columns.items():
            column = self._columns.setdefault(name, np.empty(self._images))
            column[self._done : self._done + len(values)] = values.cpu().numpy()
