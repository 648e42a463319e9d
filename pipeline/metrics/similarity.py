"""Structural similarity (SSIM) and learned perceptual distance (LPIPS): shared by the losses and the metrics."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ShapeError, WeightsError
from pipeline.core.runtime import computing_in
from pipeline.metrics.alexnet import lpips_available, lpips_weights_path

WINDOW = 11  # pixels
SIGMA = 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2  # (K₁ L)² and (K₂ L)² for a data range L of 1


def ssim(prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """SSIM of each image (Wang et al. 2004, eq. 13): the mean of `ssim_map` over channels and pixels.

    In float64, which the metric uses, it equals `skimage.metrics.structural_similarity(gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=…)`. In float32, which the loss uses, flat and
    bright areas have errors up to about 1e-4.

    Args:
        prediction, target: (B, C, H, W) in [0, 1], any float dtype; computed in float32 or float64.

    Returns:
        (B,), at most 1.

    Raises:
        ShapeError: an edge is shorter than the 11-pixel window.
    """
    return ssim_map(prediction, target).mean(dim=(1, 2, 3))


def ssim_map(prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
    """Local SSIM under a Gaussian 11×11 window, σ 1.5, in the valid region: (B, C, H−10, W−10).

    The formula uses the sum s and the difference d of the images: 4·cov(x, y) = var s − var d and
    2·(var x + var y) = var s + var d, and likewise for the means. Each factor becomes 1 minus a term that is small
    with d, so equal images score exactly 1, and there is no cancellation near 1. Arguments as for `ssim`.
    """
    height, width = prediction.shape[-2:]
    if min(height, width) < WINDOW:
        raise ShapeError(f"SSIM needs images of at least {WINDOW}×{WINDOW} pixels, but these are {height}×{width}")
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    # TF32's 10 bits would be too few for variances beside C2 = 0.0009
    with computing_in("fp32", prediction.device):
        prediction, target = prediction.to(dtype), target.to(dtype)
        s, d = prediction + target - 1, prediction - target  # s centred on 0: its square keeps more digits
        mean_s, mean_d, square_s, square_d = _blur(torch.stack((s, d, s * s, d * d)))  # (4, B, C, H−10, W−10)
        var_s, var_d = (square_s - mean_s**2).clamp(min=0), (square_d - mean_d**2).clamp(min=0)
        sum_squared, difference_squared = (mean_s + 1) ** 2, mean_d**2
        luminance = 1 - 2 * difference_squared / (sum_squared + difference_squared + 2 * C1)
        contrast_structure = 1 - 2 * var_d / (var_s + var_d + 2 * C2)
        return luminance * contrast_structure


def _blur(images: Tensor) -> Tensor:
    """Apply the Gaussian window over the last two axes, valid region, by two products with banded matrices.

    On a CPU these are four times as fast, forward and backward, as two 1×11 convolutions. In float64 without a
    backward pass, sums of shifted images are faster still.
    """
    if images.device.type == "cpu" and images.dtype == torch.float64 and not images.requires_grad:
        return _shifted_sum(_shifted_sum(images, -2), -1)
    rows, columns = (_band(edge, images) for edge in images.shape[-2:])
    return rows.T @ (images @ columns)


def _window(device: torch.device) -> Tensor:
    """The normalised Gaussian, (11,) float64."""
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return window / window.sum()


def _shifted_sum(images: Tensor, axis: int) -> Tensor:
    """The window along one axis, valid region."""
    length = images.shape[axis] - WINDOW + 1
    first, *others = _window(images.device).tolist()
    total = images.narrow(axis, 0, length) * first
    for shift, weight in enumerate(others, 1):
        total.add_(images.narrow(axis, shift, length), alpha=weight)
    return total


def _band(edge: int, like: Tensor) -> Tensor:
    """(edge, edge − 10): column j holds the normalised window in the rows j … j + 10."""
    window = _window(like.device).to(like.dtype)
    row = torch.arange(edge, device=like.device)[:, None]
    tap = row - torch.arange(edge - WINDOW + 1, device=like.device)[None, :]  # (edge, edge − 10)
    inside = (tap >= 0) & (tap < WINDOW)
    return torch.where(inside, window[tap.clamp(0, WINDOW - 1)], torch.zeros((), dtype=like.dtype, device=like.device))


def load_lpips() -> Lpips:
    """LPIPS v0.1 with AlexNet from torchvision's cache and the linear heads of the `lpips` package. Never downloads.

    Raises:
        WeightsError: AlexNet's weights are missing or damaged.
    """
    reason = lpips_available()
    if reason is not None:
        raise WeightsError(reason)
    path = lpips_weights_path()
    content = path.read_bytes()
    distance = Lpips(hashlib.sha256(content).hexdigest())
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        distance.load_alexnet(state)
    except _UNREADABLE as error:
        raise WeightsError(
            f"{path} is not the state dict of torchvision's AlexNet ({type(error).__name__} while reading it); "
            "replace the file"
        ) from None
    return distance


# raised by torch.load and load_state_dict for a file that is truncated, not a pickle, or of another network
_UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError)


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018), version 0.1, AlexNet. Frozen and always in eval mode."""

    def __init__(self, sha256: str) -> None:
        """`sha256` is that of AlexNet's weight file, for the protocol. `load_lpips` also loads the weights."""
        super().__init__()
        import lpips  # slow to import, and needed for LPIPS only

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # the random start is overwritten
            warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision in a deprecated way
            self.network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        self.network.requires_grad_(False)
        self.sha256 = sha256
        self.train(False)

    def load_alexnet(self, state: dict[str, Any]) -> None:
        """Load the convolutions from torchvision's state dict; its `features.3.weight` is `slice2.3.weight` here."""
        trunk = self.network.net
        trunk.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in trunk.state_dict()})

    def train(self, mode: bool = True) -> Lpips:
        """Stays in eval mode: the heads' dropout would make a distance random."""
        return super().train(False)

    def forward(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of each pair, (B,): 0 for equal images. Both are (B, 3, H, W) RGB in [0, 1]; in float32."""
        with computing_in("fp32", prediction.device):
            scaled = (2 * prediction.float() - 1, 2 * target.float() - 1)
            return self.network(*scaled).flatten()
