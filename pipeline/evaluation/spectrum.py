"""Energy of an image, and of its error, by octave of spatial frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Octave:
    """Radial frequencies [low, high) in cycles per pixel."""

    low: float
    high: float

    @property
    def name(self) -> str:
        return f"{self.low:.3f}–{self.high:.3f}"


def octaves(edge: int) -> tuple[Octave, ...]:
    """Octaves for an image `edge` pixels wide, from about four cycles per image up to the corners (0.707)."""
    count = max(1, int(math.log2(edge / 4)))
    highs = [0.5 / 2**k for k in reversed(range(count))]
    return tuple(Octave(high / 2, high if high < 0.5 else math.sqrt(0.5)) for high in highs)


def octave_energy(images: Tensor) -> Tensor:
    """Energy in each octave: (B, 3, H, W) → (B, octaves) float32, summed over channels.

    The mean is removed and a Hann window applied, because the jump between opposite borders would otherwise leak
    into every frequency.
    """
    height, width = images.shape[-2:]
    window, members = _plan(height, width, str(images.device))
    centred = (images - images.mean(dim=(-2, -1), keepdim=True)) * window
    power = torch.fft.fft2(centred).abs().square().sum(dim=1)  # (B, H, W)
    return power.flatten(1) @ members


@lru_cache(maxsize=8)
def _plan(height: int, width: int, device: str) -> tuple[Tensor, Tensor]:
    """The window (H, W), and the membership of frequencies in octaves, (H·W, octaves), as 0 and 1."""
    rows, columns = (torch.hann_window(n, periodic=False, device=device) for n in (height, width))
    vertical = torch.fft.fftfreq(height, device=device)[:, None]
    horizontal = torch.fft.fftfreq(width, device=device)[None, :]
    radius = torch.hypot(vertical, horizontal).flatten()
    bands = octaves(min(height, width))
    lowest = torch.tensor([band.low for band in bands], device=device)
    band = torch.bucketize(radius, lowest, right=True)  # 0: below the lowest octave
    return rows[:, None] * columns[None, :], F.one_hot(band, len(bands) + 1)[:, 1:].float()
