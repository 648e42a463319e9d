"""Ridge regression from feature patches to pixel blocks, by streaming normal equations.

With X (N, D) the k×k zero-padded patches of the standardised features plus a constant column, and Y (N, T)
the pixel block under each feature position, the closed form is W = (XᵀX + λI)⁻¹ XᵀY. Only XᵀX and XᵀY are
kept, in float64, so a store of any size is one pass (Hoerl & Kennard 1970; the constant is not penalised).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import ShapeError
from pipeline.models.common.patches import patch_cross, patch_gram

CHUNK_ELEMENTS = 2**23  # of the features held at once: 64 MB in float64
STRENGTHS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the Gram matrix's mean diagonal


class NormalEquations:
    """The sums XᵀX, XᵀY and ‖Y‖² over everything seen so far."""

    def __init__(self, channels: int, kernel: int, ratio: int, device: torch.device) -> None:
        """`ratio` is the edge of the pixel block that one feature position stands for."""
        self.kernel, self.ratio = kernel, ratio
        inputs, outputs = channels * kernel**2 + 1, 3 * ratio**2
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self.energy = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0  # positions × outputs, the number of predicted values

    def update(self, features: Float[Tensor, "b c h w"], images: Float[Tensor, "b 3 y x"]) -> None:
        """Add a batch of standardised features and the RGB [0, 1] images they came from."""
        height, width = features.shape[-2:]
        if images.shape[-2:] != (height * self.ratio, width * self.ratio):
            block = f"{self.ratio}×{self.ratio}"
            raise ShapeError(f"images of {tuple(images.shape[-2:])} are no {height}×{width} grid of {block} blocks")
        step = max(1, CHUNK_ELEMENTS // features[0].numel())
        for start in range(0, len(features), step):
            self._add(features[start : start + step], images[start : start + step])

    def _add(self, features: Tensor, images: Tensor) -> None:
        x = features.transpose(0, 1).double().contiguous()  # (C, B, H, W)
        y = F.pixel_unshuffle(images, self.ratio).transpose(0, 1).double().contiguous()  # (3·r·r, B, H, W)
        one = torch.ones_like(x[:1])
        self.gram[:-1, :-1] += patch_gram(x, self.kernel)
        sums = patch_cross(x, one, self.kernel)
        self.gram[:-1, -1:] += sums
        self.gram[-1:, :-1] += sums.T
        self.gram[-1, -1] += one.sum()
        self.cross[:-1] += patch_cross(x, y, self.kernel)
        self.cross[-1] += y.flatten(1).sum(1)
        self.energy += y.square().sum()
        self.count += y.numel()

    def mean_squared_error(self, weight: Float[Tensor, "d t"]) -> float:
        """Of the prediction X @ weight over the rows seen, from the sums alone: no second pass."""
        quadratic = (weight * (self.gram @ weight)).sum()
        linear = (weight * self.cross).sum()
        return float((quadratic - 2 * linear + self.energy) / self.count)


@dataclass(frozen=True)
class RidgeSolution:
    """The chosen weights, and the error of every strength tried."""

    weight: Float[Tensor, "d t"]  # rows: (C, k, k) flattened, then the constant
    strength: float
    errors: dict[float, float]  # strength -> mean squared error on the judging split


def solve(train: NormalEquations, judge: NormalEquations, strengths: Sequence[float] = STRENGTHS) -> RidgeSolution:
    """Fit on `train` with the strength whose error on `judge` is least; one factorisation serves all strengths.

    The constant is eliminated first (Schur complement), so that it is not penalised; then XᵀX = QΛQᵀ gives
    W(λ) = Q(Λ + λ)⁻¹QᵀXᵀY for every λ.
    """
    positions = train.gram[-1, -1]
    mean_x, mean_y = train.gram[-1, :-1] / positions, train.cross[-1] / positions
    centred = train.gram[:-1, :-1] - positions * torch.outer(mean_x, mean_x)
    cross = train.cross[:-1] - positions * torch.outer(mean_x, mean_y)
    values, vectors = torch.linalg.eigh(centred)
    projected = vectors.T @ cross
    scale = centred.diagonal().mean()

    def weights(strength: float) -> Tensor:
        slope = vectors @ (projected / (values.clamp_min(0) + strength * scale)[:, None])
        return torch.cat([slope, (mean_y - mean_x @ slope)[None]])

    errors = {strength: judge.mean_squared_error(weights(strength)) for strength in strengths}
    best = min(errors, key=errors.__getitem__)
    return RidgeSolution(weights(best), best, errors)
