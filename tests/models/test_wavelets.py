"""The Haar transform against PyWavelets."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import says

from pipeline.core.errors import ShapeError
from pipeline.models.parts.wavelets import haar_dwt, haar_idwt

edges = st.integers(1, 9)


def _image(batch: int, channels: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch + 10 * channels + 100 * height + 1000 * width)
    return torch.randn(batch, channels, 2 * height, 2 * width, dtype=dtype, generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), edges, edges)
def test_bands_are_those_of_pywavelets(batch: int, channels: int, height: int, width: int) -> None:
    image = _image(batch, channels, height, width)
    approximation, details = pywt.dwt2(image.numpy(), "haar")
    for ours, theirs in zip(haar_dwt(image), (approximation, *details), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), edges, edges)
def test_the_inverse_is_that_of_pywavelets(batch: int, channels: int, height: int, width: int) -> None:
    bands = [_image(batch, channels, height, width)[..., ::2, ::2] * factor for factor in (1, 2, 3, 4)]
    theirs = pywt.idwt2((bands[0].numpy(), tuple(band.numpy() for band in bands[1:])), "haar")
    np.testing.assert_allclose(haar_idwt(*bands).numpy(), theirs, rtol=0, atol=1e-12)


def test_float32_is_within_1e_6_of_pywavelets() -> None:
    image = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    approximation, details = pywt.dwt2(image.double().numpy(), "haar")
    for ours, theirs in zip(haar_dwt(image), (approximation, *details), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(haar_idwt(*haar_dwt(image)).numpy(), image.numpy(), rtol=0, atol=1e-6)


def test_round_trip_and_energy() -> None:
    image = _image(2, 3, 6, 5)
    bands = haar_dwt(image)
    torch.testing.assert_close(haar_idwt(*bands), image)
    torch.testing.assert_close(sum(band.square().sum() for band in bands), image.square().sum())


def test_stripes_land_in_their_own_band() -> None:
    rows = torch.tensor([1.0, -1.0]).repeat(4)[:, None].expand(8, 8)  # changes from row to row
    for picture, band in ((torch.ones(8, 8), 0), (rows, 1), (rows.T, 2), (rows * rows.T, 3)):
        energies = [float(b.square().sum()) for b in haar_dwt(picture[None, None])]
        assert energies == [64.0 if index == band else 0.0 for index in range(4)]


def test_both_directions_are_differentiable() -> None:
    image = _image(1, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: haar_idwt(*(i * b for i, b in enumerate(haar_dwt(x)))), (image,))


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 5)])
def test_odd_edges_are_refused(height: int, width: int) -> None:
    with pytest.raises(ShapeError) as caught:
        haar_dwt(torch.zeros(1, 3, height, width))
    says(caught.value, "even edges", f"{height}×{width}", "pad or crop")
