"""The streaming ridge against NumPy's least squares."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.core.errors import ShapeError
from pipeline.models.common.patches import patch_cross, patch_gram
from pipeline.models.common.ridge import PART_STRENGTHS, NormalEquations, solve, solving_bytes

CPU = torch.device("cpu")


def _problem(rows: int, seed: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 5, 8, 6, generator=random)
    mixing = torch.randn(12, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    blocks = F.conv2d(features, mixing, padding=1) + 0.3
    images = F.pixel_shuffle(blocks, 2)
    return features, images + noise * torch.randn(images.shape, generator=random)


def _design(features: torch.Tensor, kernel: int) -> np.ndarray:
    """The regression's X, built with plain loops."""
    pad = kernel // 2
    padded = np.pad(features.double().numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    _, _, height, width = features.shape
    rows = [
        np.append(sample[:, y : y + kernel, x : x + kernel].ravel(), 1.0)
        for sample in padded
        for y in range(height)
        for x in range(width)
    ]
    return np.array(rows)


def _blocks(images: torch.Tensor) -> np.ndarray:
    return F.pixel_unshuffle(images.double(), 2).permute(0, 2, 3, 1).reshape(-1, 12).numpy()


@pytest.mark.parametrize("kernel", [1, 3])
def test_it_equals_lstsq(kernel: int) -> None:
    features, images = _problem(6, seed=1)
    equations = NormalEquations([(5, kernel)], 2, CPU)
    for start in range(0, 6, 4):  # an uneven last batch
        equations.update(features[start : start + 4], images[start : start + 4])
    solution = solve(equations, equations, strengths=[0.0])
    expected, *_ = np.linalg.lstsq(_design(features, kernel), _blocks(images), rcond=None)
    np.testing.assert_allclose(solution.weight.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(9, 7), (5, 6), (2, 3)])
def test_moments_of_patches_equal_those_of_unfolded_ones(kernel: int, size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(8)
    x, y = (torch.randn(c, 2, *size, dtype=torch.float64, generator=random) for c in (3, 4))
    unfolded = F.unfold(x.transpose(0, 1), kernel, padding=kernel // 2).transpose(0, 1).flatten(1)
    torch.testing.assert_close(patch_gram(x, kernel), unfolded @ unfolded.T)
    torch.testing.assert_close(patch_cross(x, y, kernel), unfolded @ y.flatten(1).T)


def test_a_strength_penalises_the_slopes_and_not_the_constant() -> None:
    features, images = _problem(4, seed=2)
    equations = NormalEquations([(5, 1)], 2, CPU)
    equations.update(features, images)
    weight = solve(equations, equations, strengths=[1e9]).weight
    np.testing.assert_allclose(weight[-1].numpy(), _blocks(images).mean(axis=0), atol=1e-6)
    assert weight[:-1].abs().max() < 1e-6


def test_the_error_from_the_sums_equals_the_error_of_the_prediction() -> None:
    features, images = _problem(4, seed=3)
    equations = NormalEquations([(5, 3)], 2, CPU)
    equations.update(features, images)
    solution = solve(equations, equations, strengths=[1e-3])
    residual = _design(features, 3) @ solution.weight.numpy() - _blocks(images)
    assert solution.errors[1e-3] == pytest.approx(np.mean(residual**2), rel=1e-9)


def test_the_strength_is_the_judges_choice() -> None:
    few, judge = _problem(1, seed=4, noise=3.0), _problem(8, seed=5)
    train, validation = NormalEquations([(5, 3)], 2, CPU), NormalEquations([(5, 3)], 2, CPU)
    train.update(*few)
    validation.update(*judge)
    solution = solve(train, validation)
    assert solution.errors[solution.strength] == min(solution.errors.values())
    assert solution.strength > 1e-7  # 48 noisy positions for 46 unknowns: no fit without a penalty generalises


def test_chunks_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    features, images = _problem(5, seed=6)
    whole = NormalEquations([(5, 3)], 2, CPU)
    whole.update(features, images)
    monkeypatch.setattr("pipeline.models.common.ridge.CHUNK_ELEMENTS", 1)
    monkeypatch.setattr("pipeline.models.common.ridge.CHUNK_SHARE", 0)
    pieces = NormalEquations([(5, 3)], 2, CPU)
    pieces.update(features.flip(0), images.flip(0))
    torch.testing.assert_close(whole.gram, pieces.gram)
    torch.testing.assert_close(whole.cross, pieces.cross)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"are no 8×6 grid of 3×3 blocks"):
        NormalEquations([(5, 3)], 3, CPU).update(*_problem(1, seed=7))


def _several(count: int, rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images from five channels, and `count` noisy copies of these: the second equals the first, the third is 0."""
    features, images = _problem(rows, seed)
    random = torch.Generator().manual_seed(seed + 100)
    copies = [features + place * torch.randn(features.shape, generator=random) for place in range(1, count + 1)]
    copies[1], copies[2] = copies[0], torch.zeros_like(features)
    return torch.cat(copies, dim=1), images


def _sums(parts: list[tuple[int, int]], problem: tuple[torch.Tensor, torch.Tensor]) -> NormalEquations:
    equations = NormalEquations(parts, 2, CPU)
    equations.update(*problem)
    return equations


@pytest.mark.parametrize("count", [4, 5, 12])
def test_several_parts_equal_least_squares_with_their_strengths(count: int) -> None:
    parts = [(5, 1)] * count
    few, judge = _several(count, 2, seed=1), _several(count, 6, seed=2)
    train, validation = _sums(parts, few), _sums(parts, judge)
    solution = solve(train, validation)
    design, blocks = _design(few[0], 1)[:, :-1], _blocks(few[1])
    centred = design - design.mean(0)
    scales = [np.square(centred[:, 5 * place : 5 * place + 5]).sum(0).mean() for place in range(count)]
    penalty = np.repeat([s * (scale or max(scales)) for s, scale in zip(solution.strengths, scales, strict=True)], 5)
    stacked = np.concatenate([centred, np.diag(np.sqrt(penalty))])
    targets = np.concatenate([blocks - blocks.mean(0), np.zeros((5 * count, 12))])
    slope = np.linalg.lstsq(stacked, targets, rcond=None)[0]
    np.testing.assert_allclose(solution.weight[:-1].numpy(), slope, atol=1e-6)
    assert solution.error == pytest.approx(validation.mean_squared_error(solution.weight), rel=1e-9)
    assert len(set(solution.strengths)) > 1  # noisier copies are penalised more
    for place in range(count):
        alone = solve(train.alone(place), validation.alone(place))
        assert solution.error <= alone.error


@pytest.mark.parametrize("count", [4, 12])
def test_the_search_of_strengths_ends_where_no_other_strength_is_better(count: int) -> None:
    """Of the last part, whose strengths were tried last; each solved from scratch."""
    parts = [(5, 1)] * count
    train, judge = _sums(parts, _several(count, 2, seed=1)), _sums(parts, _several(count, 6, seed=2))
    solution = solve(train, judge)
    gram, cross = train.gram[:-1, :-1], train.cross[:-1]
    mean_x, mean_y = train.gram[-1, :-1] / train.gram[-1, -1], train.cross[-1] / train.gram[-1, -1]
    gram = gram - train.gram[-1, -1] * torch.outer(mean_x, mean_x)
    cross = cross - train.gram[-1, -1] * torch.outer(mean_x, mean_y)
    scales = [float(gram.diagonal()[part].mean()) for part in train.columns()]
    for strength in PART_STRENGTHS:
        own = [*solution.strengths[:-1], strength]
        penalty = torch.tensor([s * (scale or max(scales)) for s, scale in zip(own, scales, strict=True)])
        slope = torch.linalg.solve(gram + penalty.double().repeat_interleave(5).diag(), cross)
        weight = torch.cat([slope, (mean_y - mean_x @ slope)[None]])
        assert judge.mean_squared_error(weight) >= solution.error * (1 - 1e-6)


def test_the_stated_memory_grows_with_the_square_of_the_columns() -> None:
    one, many = (solving_bytes([(384, 1)] * count, 16) for count in (1, 12))
    assert many > 3 * 8 * (12 * 384) ** 2
    assert many > 12 * one
    assert NormalEquations.bytes([(384, 1)] * 12, 16) > 8 * (12 * 384) ** 2
