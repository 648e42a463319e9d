"""The streaming ridge against NumPy's least squares."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.core.errors import ShapeError
from pipeline.models.common.patches import patch_cross, patch_gram
from pipeline.models.common.ridge import NormalEquations, solve

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
    pieces = NormalEquations([(5, 3)], 2, CPU)
    pieces.update(features.flip(0), images.flip(0))
    torch.testing.assert_close(whole.gram, pieces.gram)
    torch.testing.assert_close(whole.cross, pieces.cross)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"are no 8×6 grid of 3×3 blocks"):
        NormalEquations([(5, 3)], 3, CPU).update(*_problem(1, seed=7))
