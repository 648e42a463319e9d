"""Ridge regression from feature patches to pixel blocks, by streaming normal equations.

Let X (N, D) be the k×k zero-padded patches of the standardised features plus a constant column, and Y (N, T)
the pixel block under each feature position. The closed form is W = (XᵀX + λI)⁻¹ XᵀY (Hoerl & Kennard 1970; the
constant is not penalised). Only XᵀX and XᵀY are kept, in float64, so one pass suffices for a store of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import ShapeError, TrainingError
from pipeline.models.common.patches import Part, by_kernel, patch_cross, patch_gram, patches

CHUNK_ELEMENTS = 2**20  # features summed at once, 8 MB in float64, which fits a processor's cache
CHUNK_SHARE = 1 / 4  # of the Gram matrix: where that is more, each pass over the matrix sums as many features
STRENGTHS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # λ over the Gram matrix's mean diagonal
DROPPED = 1e9  # the strength of a part that is left out
PART_STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, DROPPED)  # tried for one part of several, with the others fixed
SQUARES = 4.5  # matrices as large as the Gram matrix that `solve` holds at a time, measured
ROUNDING = 1e-12  # a variance below this fraction of the sum of squares is rounding


def columns_of(parts: Sequence[Part]) -> list[slice]:
    """The columns that belong to each part, among the entries of all patches in the order of `by_kernel`."""
    found, start = [slice(0)] * len(parts), 0
    for kernel, places in by_kernel(parts).items():
        for place in places:
            found[place] = slice(start, start + parts[place][0] * kernel**2)
            start = found[place].stop
    return found


class NormalEquations:
    """The sums XᵀX, XᵀY and ‖Y‖² over everything seen so far.

    X has a column for each entry of each part's patches, in the order of `by_kernel`, and a final constant column.
    """

    def __init__(self, parts: Sequence[Part], ratio: int, device: torch.device) -> None:
        """`parts`: channels and kernel of each source. `ratio`: edge of the pixel block under one feature."""
        self.parts, self.ratio = tuple(parts), ratio
        inputs, outputs = sum(width * kernel**2 for width, kernel in self.parts) + 1, 3 * ratio**2
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self.energy = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0  # positions × outputs, the number of predicted values

    @staticmethod
    def bytes(parts: Sequence[Part], ratio: int) -> int:
        """Bytes of the sums, and of what is added to them at a time."""
        columns = sum(width * kernel**2 for width, kernel in parts) + 1
        chunk = 0 if all(kernel == 1 for _, kernel in parts) else columns**2
        return 8 * (columns * (columns + 3 * ratio**2) + chunk + int(CHUNK_SHARE * columns**2))

    def update(self, features: Float[Tensor, "b c h w"], images: Float[Tensor, "b 3 y x"]) -> None:
        """Add a batch of standardised features and their RGB images, or residuals of these.

        Raises:
            ShapeError: the images are not the features' grid of `ratio`×`ratio` blocks.
        """
        height, width = features.shape[-2:]
        if images.shape[-2:] != (height * self.ratio, width * self.ratio):
            block = f"{self.ratio}×{self.ratio}"
            raise ShapeError(f"images of {tuple(images.shape[-2:])} are no {height}×{width} grid of {block} blocks")
        step = max(1, max(CHUNK_ELEMENTS, int(CHUNK_SHARE * self.gram.numel())) // features[0].numel())
        for start in range(0, len(features), step):
            self._add(features[start : start + step], images[start : start + step])

    def _add(self, features: Tensor, images: Tensor) -> None:
        x = features.transpose(0, 1).double().contiguous()  # (C, B, H, W)
        y = F.pixel_unshuffle(images, self.ratio).transpose(0, 1).double().contiguous()  # (3·r·r, B, H, W)
        one = torch.ones_like(x[:1])
        groups = self._groups(x)
        for number, (kernel, here, own) in enumerate(groups):
            if kernel == 1:  # in place: no copy of the matrix
                self.gram[here, here].addmm_(own.flatten(1), own.flatten(1).T)
            else:
                self.gram[here, here] += patch_gram(own, kernel)
            sums = patch_cross(own, one, kernel)
            self.gram[here, -1:] += sums
            self.gram[-1:, here] += sums.T
            self.cross[here] += patch_cross(own, y, kernel)
            for smaller, there, other in groups[number + 1 :]:
                block = patch_cross(own, patches(other, smaller), kernel)
                self.gram[here, there] += block
                self.gram[there, here] += block.T
        self.gram[-1, -1] += one.sum()
        self.cross[-1] += y.flatten(1).sum(1)
        self.energy += y.square().sum()
        self.count += y.numel()

    def _groups(self, x: Tensor) -> list[tuple[int, slice, Tensor]]:
        """For each kernel, its columns of X and the channels of its parts."""
        found, start, sources = [], 0, x.split([width for width, _ in self.parts])
        for kernel, places in by_kernel(self.parts).items():
            own = x if len(places) == len(sources) else torch.cat([sources[place] for place in places])
            found.append((kernel, slice(start, start + len(own) * kernel**2), own))
            start = found[-1][1].stop
        return found

    def columns(self) -> list[slice]:
        """The columns of X that belong to each part."""
        return columns_of(self.parts)

    def alone(self, place: int) -> NormalEquations:
        """The normal equations of one part."""
        own = NormalEquations([self.parts[place]], self.ratio, self.gram.device)
        rows = torch.arange(len(self.gram), device=self.gram.device)
        rows = torch.cat([rows[self.columns()[place]], rows[-1:]])
        own.gram, own.cross = self.gram[rows][:, rows], self.cross[rows]
        own.energy, own.count = self.energy, self.count
        return own

    def mean_squared_error(self, weight: Float[Tensor, "d t"]) -> float:
        """Mean squared error of the prediction X @ weight over the rows seen, from the sums, without a second pass."""
        quadratic = (weight * (self.gram @ weight)).sum()
        linear = (weight * self.cross).sum()
        return float((quadratic - 2 * linear + self.energy) / self.count)


@dataclass(frozen=True)
class RidgeSolution:
    """The chosen weights, and the error of every strength tried."""

    weight: Float[Tensor, "d t"]  # rows: as the columns of X
    strength: float  # the best common strength of all parts
    errors: dict[float, float]  # common strength -> mean squared error on the judging split
    strengths: tuple[float, ...]  # of each part, relative to the mean diagonal of its own block
    error: float  # of `weight` on the judging split


def solve(
    train: NormalEquations,
    judge: NormalEquations,
    strengths: Sequence[float] = STRENGTHS,
    elsewhere: Sequence[int] = (),
) -> RidgeSolution:
    """Fit on `train` with the strength of the lowest error on `judge`.

    Each of several parts has its own strength. The search starts from the best of: one strength for all parts, and each
    part alone; then it tries other strengths for one part after the other, once. So the error on `judge` is at most
    that of any part alone, and that of one strength for all. The cost is one Cholesky decomposition of the whole for
    each common strength, and for each part one of all others and one eigendecomposition of its own block.
    `solving_bytes` is the memory.

    Args:
        strengths: relative to the mean diagonal of the Gram matrix.
        elsewhere: positions of parts that the caller tries alone itself.
    """
    system, columns = _centred(train), train.columns()
    whole = _scale(system, train.gram)
    if len(columns) == 1 or not whole:
        return _with_one_strength(train, judge, strengths)
    scales = [_scale(system, train.gram, part) for part in columns]
    best = _with_common_strength(system, judge, strengths, whole, scales, columns)
    for place in sorted({*range(len(train.parts))} - {*elsewhere}):
        alone = _with_one_strength(train.alone(place), judge.alone(place), strengths)
        if alone.error < best.error:
            weight = torch.zeros_like(train.cross)
            weight[columns[place]], weight[-1] = alone.weight[:-1], alone.weight[-1]
            chosen = tuple(alone.strength if part == place else DROPPED for part in range(len(columns)))
            best = replace(best, weight=weight, strengths=chosen, error=alone.error)
    for place, scale in enumerate(scales):
        if scale:
            best = _with_own_strength(system, judge, best, scales, columns, place)
    return best


def solving_bytes(parts: Sequence[Part], ratio: int) -> int:
    """Bytes that `solve` needs at most beside its two arguments: square matrices, and some as wide as the outputs."""
    columns, outputs = sum(width * kernel**2 for width, kernel in parts) + 1, 3 * ratio**2
    widest = max(width * kernel**2 for width, kernel in parts)
    return int(8 * columns * (SQUARES * columns + 4 * (outputs + widest)))


@dataclass(frozen=True)
class _Centred:
    """Normal equations whose constant is eliminated (Schur complement), so that it is not penalised."""

    gram: Tensor
    cross: Tensor
    mean_x: Tensor
    mean_y: Tensor

    def weight(self, slope: Tensor) -> Tensor:
        return torch.cat([slope, (self.mean_y - self.mean_x @ slope)[None]])


def _centred(equations: NormalEquations) -> _Centred:
    """Raises TrainingError: a sum is not finite."""
    if not (equations.gram.isfinite().all() and equations.cross.isfinite().all()):
        raise TrainingError(
            "sums over the features are not finite, so some features are not finite; extract them again "
            "(python -m stages extract), with extract.precision: fp32"
        )
    positions = equations.gram[-1, -1]
    mean_x, mean_y = equations.gram[-1, :-1] / positions, equations.cross[-1] / positions
    gram = equations.gram[:-1, :-1] - positions * torch.outer(mean_x, mean_x)
    return _Centred(gram, equations.cross[:-1] - positions * torch.outer(mean_x, mean_y), mean_x, mean_y)


def _scale(system: _Centred, gram: Tensor, part: slice = slice(None)) -> float:
    """The mean diagonal of a part's block; 0 if it is only rounding."""
    scale, before = system.gram.diagonal()[part].mean(), gram.diagonal()[:-1][part].mean()
    return float(scale) if scale > ROUNDING * before else 0.0


def _with_one_strength(train: NormalEquations, judge: NormalEquations, strengths: Sequence[float]) -> RidgeSolution:
    """XᵀX = QΛQᵀ gives W(λ) = Q(Λ + λ)⁻¹QᵀXᵀY for every λ. For constant features, W predicts the mean colour."""
    system = _centred(train)
    scale = _scale(system, train.gram)
    values, vectors = torch.linalg.eigh(system.gram)
    projected = vectors.T @ system.cross

    def weights(strength: float) -> Tensor:
        if not scale:
            return system.weight(torch.zeros_like(system.cross))
        return system.weight(vectors @ (projected / (values.clamp_min(0) + strength * scale)[:, None]))

    errors = {strength: judge.mean_squared_error(weights(strength)) for strength in strengths}
    best = min(errors, key=errors.__getitem__)
    return RidgeSolution(weights(best), best, errors, (best,), errors[best])


def _with_common_strength(
    system: _Centred,
    judge: NormalEquations,
    strengths: Sequence[float],
    whole: float,
    scales: Sequence[float],
    columns: Sequence[slice],
) -> RidgeSolution:
    """The best of one strength for all parts, over the mean diagonal `whole`; by Cholesky, which needs less memory."""
    best: RidgeSolution | None = None
    errors = {}
    for strength in strengths:
        penalised = system.gram.clone()
        penalised.diagonal().add_(strength * whole)
        weight = system.weight(torch.cholesky_solve(system.cross, torch.linalg.cholesky(penalised)))
        errors[strength] = judge.mean_squared_error(weight)
        if best is None or errors[strength] < best.error:
            own = tuple(strength * whole / scale if scale else DROPPED for scale in scales)
            best = RidgeSolution(weight, strength, errors, own, errors[strength])
    assert best is not None
    return best


def _with_own_strength(
    system: _Centred,
    judge: NormalEquations,
    best: RidgeSolution,
    scales: Sequence[float],
    columns: Sequence[slice],
    place: int,
) -> RidgeSolution:
    """The better of `best` and of other strengths for the part at `place`, those of the other parts fixed.

    With the other parts eliminated (Schur complement), the weights are W₀ + U·w, in which only the part's own weights w
    depend on its strength. So one factorisation serves all strengths, and each costs as much as the part alone.
    """
    rows = torch.arange(len(system.gram), device=system.gram.device)
    own, others = rows[columns[place]], torch.cat([rows[: columns[place].start], rows[columns[place].stop :]])
    penalty = torch.zeros_like(system.mean_x)
    for strength, scale, part in zip(best.strengths, scales, columns, strict=True):
        penalty[part] = strength * (scale or max(scales))
    penalised = system.gram[others[:, None], others]
    penalised.diagonal().add_(penalty[others])
    factor, failed = torch.linalg.cholesky_ex(penalised)
    if failed:  # not positive definite because of rounding
        return best
    border = system.gram[others[:, None], own]
    solved = torch.cholesky_solve(torch.cat([border, system.cross[others]], dim=1), factor)
    values, vectors = torch.linalg.eigh(system.gram[own[:, None], own] - border.T @ solved[:, : len(own)])
    projected = vectors.T @ (system.cross[own] - border.T @ solved[:, len(own) :])
    base, further = torch.zeros_like(system.cross), system.gram.new_zeros(len(rows), len(own))
    base[others], further[others] = solved[:, len(own) :], -solved[:, : len(own)]
    further[own] = torch.eye(len(own)).to(further)
    base, further = system.weight(base), torch.cat([further, -(system.mean_x @ further)[None]])
    quadratic = further.T @ (judge.gram @ further)
    linear = further.T @ (judge.gram @ base - judge.cross)
    start = judge.mean_squared_error(base)
    for strength in PART_STRENGTHS:
        weight = vectors @ (projected / (values.clamp_min(0) + strength * scales[place])[:, None])
        error = start + float(((weight * (quadratic @ weight)).sum() + 2 * (weight * linear).sum()) / judge.count)
        if error < best.error:
            strengths = (*best.strengths[:place], strength, *best.strengths[place + 1 :])
            best = replace(best, weight=base + further @ weight, strengths=strengths, error=error)
    return best
