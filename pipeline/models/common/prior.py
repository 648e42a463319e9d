"""A Gaussian prior of photographs: a mean colour and, for each spatial frequency, a covariance of R, G and B.

The prior is fitted on the training photographs and is stationary: it does not depend on the position in the picture.
With the unitary Fourier transform x̂(ω) of an image minus the mean colour, C(ω) is the mean of Re x̂(ω) x̂(ω)ᴴ (3, 3);
the real part, because no colour is displaced against another. The log density is −½ Σ x̂(ω)ᴴ C(ω)⁻¹ x̂(ω) up to a
constant (Field 1987 for the spectrum; Mahendran & Vedaldi 2015 use total variation as the prior instead).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.core.errors import DataError
from pipeline.core.files import whole_file
from pipeline.stores.prepared import PreparedData

FILE = "prior.safetensors"
PHOTOGRAPHS = 2000  # training views at most, enough for 3×3 numbers for each frequency
BATCH = 32
LEAST = 1 / 255**2 / 12  # variance of rounding to 8 bits, the least of any frequency of a photograph

Filter = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ImagePrior:
    """A stationary Gaussian over RGB images (3, H, W) in [0, 1].

    mean: (3, 1, 1). variances: (3, H, W // 2 + 1), the eigenvalues of each C(ω). axes: (3, 3, H, W // 2 + 1), its
    eigenvectors: entry (c, k) is colour c of the k-th.
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor

    @classmethod
    def of(cls, mean: Float[Tensor, " 3"], covariance: Float[Tensor, "3 3 h w"]) -> ImagePrior:
        variances, axes = torch.linalg.eigh(covariance.permute(2, 3, 0, 1).double())
        return cls(
            mean[:, None, None].float(),
            variances.clamp_min(LEAST).permute(2, 0, 1).float().contiguous(),
            axes.permute(2, 3, 0, 1).float().contiguous(),
        )

    def to(self, device: torch.device) -> ImagePrior:
        return ImagePrior(self.mean.to(device), self.variances.to(device), self.axes.to(device))

    def filter(self, gain: Callable[[Tensor], Tensor]) -> Filter:
        """The symmetric linear map g(C) of images minus the mean (B, 3, H, W), for a function g of C's eigenvalues."""
        matrix = torch.einsum("ckhw,khw,dkhw->cdhw", self.axes, gain(self.variances), self.axes)

        def apply(images: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(images, norm="ortho")
            mixed = torch.stack([(row * spectrum).sum(1) for row in matrix], dim=1)  # (B, 3, H, W // 2 + 1)
            return torch.fft.irfft2(mixed, s=images.shape[-2:], norm="ortho")

        return apply


def fit_prior(data: PreparedData, output: Path) -> None:
    """Fit the prior on the training views of `data`, at most `PHOTOGRAPHS` spread evenly, and save it in `output`."""
    rows = data.rows("train")
    chosen = rows[:: -(-len(rows) // PHOTOGRAPHS)]
    mean, covariance = moments(data.crops(chosen[start : start + BATCH]) for start in range(0, len(chosen), BATCH))
    with whole_file(output / FILE) as part:
        save_file(
            {"mean": mean.float(), "covariance": covariance.float().contiguous()}, part, {"data": data.fingerprint}
        )


def load_prior(folder: Path, data: PreparedData, remedy: str = "fit it: python -m stages prior") -> ImagePrior:
    """The prior that was fitted on the training views of `data`.

    Raises:
        DataError: the prior is missing, damaged, or was fitted on other data.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(f"{path}, the image prior, is missing; {remedy}")
    try:
        with safe_open(path, "pt") as file:
            fitted_on = file.metadata()["data"]
            mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
    except (SafetensorError, KeyError, TypeError) as error:
        raise DataError(f"{path}, the image prior, is damaged ({error}); {remedy}") from None
    if fitted_on != data.fingerprint:
        raise DataError(
            f"{path} was fitted on prepared data {fitted_on[:12]}…, not on {data.fingerprint[:12]}… in {data.root}; "
            f"{remedy}"
        )
    return ImagePrior.of(mean, covariance)


def moments(crops: Iterable[NDArray[np.uint8]]) -> tuple[Float[Tensor, " 3"], Float[Tensor, "3 3 h w"]]:
    """Mean colour and C(ω) at the frequencies of `rfft2` over batches of crops (B, H, W, 3), in float64, one pass."""
    count, total, second = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(())
    shift = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    for batch in crops:
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).double() / 255
        if not count:
            shift = images.mean(dim=(0, 2, 3), keepdim=True)  # near the mean, so that the sums do not cancel
        images -= shift
        spectrum = torch.fft.rfft2(images, norm="ortho")
        second = second + torch.einsum("bchw,bdhw->cdhw", spectrum, spectrum.conj()).real
        total += images.mean(dim=(2, 3)).sum(0)
        count += len(images)
        pixels = images[0, 0].numel()
    mean, covariance = total / count, second / count
    covariance[:, :, 0, 0] -= pixels * torch.outer(mean, mean)  # a constant image has frequency 0 only
    return mean + shift.flatten(), covariance
