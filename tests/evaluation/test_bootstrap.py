"""Means and their intervals: the cluster bootstrap over photographs, against NumPy, theory and plain Python."""

import random
import statistics
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest

from pipeline.evaluation.bootstrap import bootstrap_means, summarise


def own(count: int) -> list[str]:
    """Every image a photograph of its own."""
    return [f"photograph_{k}.png" for k in range(count)]


def test_summary_against_numpy() -> None:
    values = np.random.default_rng(3).normal(30, 4, 500)
    summary = summarise({"psnr": values, "mse": values / 100}, own(500), 2000, seed=1)["psnr"]
    assert summary["mean"] == values.mean()
    assert summary["std"] == values.std()
    assert (summary["min"], summary["max"]) == (values.min(), values.max())
    half = 1.96 * values.std() / np.sqrt(len(values))  # normal theory
    assert summary["low"] == pytest.approx(values.mean() - half, abs=0.06)
    assert summary["high"] == pytest.approx(values.mean() + half, abs=0.06)


def test_seeded_and_paired() -> None:
    first = np.random.default_rng(0).normal(size=50)
    table = np.stack([first, first + 0.25], axis=1)
    for photographs in (own(50), ["a", "b", "c", "d", "e"] * 10):
        means = bootstrap_means(table, photographs, 300, seed=5)
        np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25)
        np.testing.assert_array_equal(means, bootstrap_means(table, photographs, 300, seed=5))
        assert not np.array_equal(means, bootstrap_means(table, photographs, 300, seed=6))


def test_one_image_a_photograph_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(1).normal(30, 4, (37, 2))
    picks = np.random.default_rng(7).integers(37, size=(400, 37))
    plain = np.stack([values[:, k][picks].mean(axis=1) for k in range(2)], axis=1)
    names = [f"{k * 31 % 37}.png" for k in range(37)]  # in no alphabetical order
    np.testing.assert_array_equal(bootstrap_means(values, names, 400, seed=7), plain)


def test_more_crops_of_the_same_photographs_do_not_narrow_the_interval() -> None:
    values, photographs = np.random.default_rng(2).normal(30, 4, 12), own(12)
    once = summarise({"psnr": values}, photographs, 1000, seed=0)["psnr"]
    five = summarise({"psnr": np.repeat(values, 5)}, list(np.repeat(photographs, 5)), 1000, seed=0)["psnr"]
    assert (five["low"], five["high"]) == pytest.approx((once["low"], once["high"]))
    as_if_independent = summarise({"psnr": np.repeat(values, 5)}, own(60), 1000, seed=0)["psnr"]
    assert as_if_independent["high"] - as_if_independent["low"] < 0.6 * (once["high"] - once["low"])


def test_photographs_of_several_sizes_against_plain_python() -> None:
    """Whole photographs with all of their crops, drawn and pooled one by one by another generator."""
    photographs = ["cat", "cup", "cat", "sea", "cat", "cup", "fox", "cat", "sky", "sky"]
    values = [31.0, 24.5, 33.0, 28.0, 30.5, 25.0, 37.0, 32.0, 27.0, 26.5]
    crops = defaultdict(list)
    for name, value in zip(photographs, values, strict=True):
        crops[name].append(value)
    dice = random.Random(3)
    expected = []
    for _ in range(40_000):
        drawn = dice.choices(list(crops), k=len(crops))
        expected.append(statistics.fmean(value for name in drawn for value in crops[name]))
    means = bootstrap_means(np.array(values)[:, None], photographs, 40_000, seed=0)[:, 0]
    assert means.mean() == pytest.approx(statistics.fmean(expected), abs=0.03)
    shares = (0.025, 0.25, 0.5, 0.75, 0.975)
    np.testing.assert_allclose(np.quantile(means, shares), np.quantile(expected, shares), atol=0.1)


def test_in_steps_every_resample_is_covered_and_memory_is_bounded() -> None:
    count = 300_001
    values, photographs = np.ones((count, 1)), own(count)
    tracemalloc.start()
    np.testing.assert_array_equal(bootstrap_means(values, photographs, 101, seed=0), np.ones((101, 1)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20  # all picks at once are 231 MiB
