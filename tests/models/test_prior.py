"""The image prior against plain NumPy, and what it may and may not look at."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_experiment import experiment

from pipeline.core.errors import DataError
from pipeline.models.common.prior import FILE, LEAST, ImagePrior, fit_prior, load_prior, moments
from pipeline.stores.prepared import PreparedData


def _crops(count: int = 5, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("dark", [1, 200])
def test_moments_equal_numpys(dark: int) -> None:
    crops = dark + _crops() // 8 if dark > 1 else _crops()
    mean, covariance = moments([crops[:2], crops[2:]])
    images = crops.transpose(0, 3, 1, 2) / 255
    expected = images.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(mean.numpy(), expected)
    spectra = np.fft.rfft2(images - expected[:, None, None], norm="ortho")
    for row, column in [(0, 0), (2, 1), (5, 4)]:
        outer = np.mean([np.outer(x, x.conj()).real for x in spectra[:, :, row, column]], axis=0)
        np.testing.assert_allclose(covariance[:, :, row, column].numpy(), outer, atol=1e-12)


def _prior() -> ImagePrior:
    return ImagePrior.of(*moments([_crops()]))


def _dense(apply: Any, shape: tuple[int, int, int] = (3, 6, 8)) -> torch.Tensor:
    """The matrix of a linear map of images, column by column."""
    size = int(np.prod(shape))
    return apply(torch.eye(size).view(size, *shape)).flatten(1).T


def test_filters_are_functions_of_one_symmetric_positive_matrix() -> None:
    prior = _prior()
    covariance, root = (_dense(prior.filter(gain)) for gain in (lambda c: c, torch.sqrt))
    torch.testing.assert_close(covariance, covariance.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(root @ root, covariance, atol=1e-5, rtol=1e-4)
    assert torch.linalg.eigvalsh(covariance.double()).min() > LEAST / 2


def test_the_filter_by_the_covariance_is_the_covariance_over_all_shifts() -> None:
    crops = _crops()
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).double() / 255
    centred = images - images.mean(dim=(0, 2, 3), keepdim=True)
    mirrored = torch.cat([centred, centred.flip(2, 3)])  # the real part: no colour ahead of another
    expected = torch.zeros(144, 144, dtype=torch.float64)
    for down in range(6):
        for right in range(8):
            flat = mirrored.roll((down, right), (2, 3)).flatten(1)
            expected += flat.T @ flat / (48 * len(flat))
    torch.testing.assert_close(_dense(_prior().filter(lambda c: c)).double(), expected, atol=1e-5, rtol=1e-3)


def test_only_training_views_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = experiment().data()
    seen: list[int] = []
    read = PreparedData.crops

    def spy(self: PreparedData, rows: np.ndarray, *rest: Any) -> np.ndarray:
        seen.extend(rows.tolist())
        return read(self, rows, *rest)

    monkeypatch.setattr(PreparedData, "crops", spy)
    fit_prior(data, tmp_path)
    assert sorted(seen) == data.rows("train").tolist()


def test_saved_and_read_it_is_the_same(tmp_path: Path) -> None:
    data = experiment().data()
    fit_prior(data, tmp_path)
    saved = load_prior(tmp_path, data)
    direct = ImagePrior.of(*moments([data.crops(data.rows("train"))]))
    torch.testing.assert_close(saved.mean, direct.mean)
    torch.testing.assert_close(saved.variances, direct.variances, rtol=1e-3, atol=1e-7)


def test_a_missing_damaged_or_foreign_prior_is_refused(tmp_path: Path) -> None:
    data = experiment().data()
    with pytest.raises(DataError, match=r"the image prior, is missing; fit it: python -m stages prior$"):
        load_prior(tmp_path, data)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="the image prior, is damaged"):
        load_prior(tmp_path, data)
    fit_prior(data, tmp_path)
    data.fingerprint = "0" * 64
    with pytest.raises(DataError, match=r"was fitted on prepared data .*…, not on 000000000000… in "):
        load_prior(tmp_path, data)
