"""Features changed before they are decoded: what a decoder makes of fewer, coarser, noisier or missing ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import ParamsError
from pipeline.core.sources import FeatureShape
from pipeline.experiments.reconstruction import Encoder
from pipeline.models.common.inverter import Standardise
from pipeline.stores.layout import Layout

BITS = 8  # at most: int8
MOST_NOISE = 1e6  # standard deviations; float32 has no place for the features beside more
SCALE_BITS = 2 * 32  # of a channel in a coarse code: its step and its smallest value


@dataclass(frozen=True)
class Tampering:
    """What is done to the features of each source, in this order; the defaults change nothing.

    top: channels kept, those that vary most over the photograph (0: all). alone: the one channel kept (-1: all).
    blank: top, left, bottom and right of a region of the grid, as shares of it in [0, 1]. What is left out becomes its
    channel's mean over the training photographs, which says nothing. noise: standard deviation of white Gaussian
    noise, in units of the channel's own over the training photographs. bits: of each value, 1 to 8, between the
    smallest and the largest of its channel, as int8 in a store (0: as stored).
    """

    top: int = 0
    alone: int = -1
    noise: float = 0.0
    bits: int = 0
    blank: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ParamsError: a value out of its range."""
        rules = (
            ("top", self.top, self.top >= 0, "0 or more channels"),
            ("alone", self.alone, self.alone >= -1, "the number of a channel, or -1 for all"),
            ("noise", self.noise, 0 <= self.noise <= MOST_NOISE, f"0 to {MOST_NOISE:g} standard deviations"),
            ("bits", self.bits, 0 <= self.bits <= BITS, f"0 to {BITS}, where 0 leaves them as they are stored"),
            ("blank", self.blank, all(0 <= edge <= 1 for edge in self.blank), "four shares of the grid from 0 to 1"),
        )
        for name, value, legal, rule in rules:
            if not legal:
                raise ParamsError(f"{name} = {value} must be {rule}")


@dataclass(frozen=True)
class Tampered:
    """image: (B, 3, H, W) RGB in [0, 1]. bits_per_pixel: what was left of the features takes, of the photograph."""

    image: Tensor
    bits_per_pixel: float


@torch.no_grad()
def tampered(encoder: Encoder, images: Float[Tensor, "b 3 y x"], change: Tampering) -> Tampered:
    """Photographs seen through changed features. Raises ParamsError: a channel that a source does not have."""
    kept = []
    bits = 0.0
    pairs = zip(encoder.features(images), encoder.inverter.standardise, encoder.stored, strict=False)
    for features, standardise, dtype in pairs:  # of two stages the last to standardise is the image, which is not sent
        assert isinstance(standardise, Standardise)
        changed, own = _changed(features, standardise, change, dtype)
        kept.append(changed)
        bits += own
    return Tampered(encoder.decode(tuple(kept)), bits / (images.shape[-2] * images.shape[-1]))


def quantised(features: Float[Tensor, "b c h w"], bits: int) -> Float[Tensor, "b c h w"]:
    """Each channel of each image rounded to 2^bits even steps from its smallest to its largest value."""
    low, high = features.amin((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)
    step = (high - low) / (2**bits - 1)
    step = torch.where(step > 0, step, torch.ones_like(step))
    return ((features - low) / step).round() * step + low


def _changed(features: Tensor, standardise: Standardise, change: Tampering, dtype: str) -> tuple[Tensor, float]:
    """One source's features, and how many bits of an image are left of them."""
    channels, height, width = features.shape[1:]
    if change.alone >= channels:
        raise ParamsError(f"alone = {change.alone} must be a channel of these features, 0 to {channels - 1}")
    stays = torch.ones(features.shape, dtype=torch.bool, device=features.device)
    if change.top and change.top < channels:
        order = features.flatten(2).std(dim=2).argsort(dim=1, descending=True, stable=True)  # (B, C)
        stays &= order.argsort(dim=1)[:, :, None, None] < change.top
    if change.alone >= 0:
        only = torch.arange(channels, device=features.device) == change.alone
        stays &= only[None, :, None, None]
    edges = zip(change.blank, (height, width, height, width), strict=True)
    top, left, bottom, right = (round(share * size) for share, size in edges)
    stays[:, :, top:bottom, left:right] = False
    if change.noise:
        generator = torch.Generator().manual_seed(change.seed)
        noise = torch.randn(features.shape, generator=generator).to(features)
        deviation = torch.where(standardise.scale > 0, standardise.scale.reciprocal(), 0)
        features = features + change.noise * deviation * noise
    if change.bits:
        features = quantised(features, change.bits)
    left_over = float(stays.float().mean())
    carrying = float(stays.flatten(2).any(dim=2).float().mean()) * channels  # channels of which anything is left
    if change.bits:
        bits = left_over * features[0].numel() * change.bits + carrying * SCALE_BITS
    else:
        bits = 8 * left_over * row_bytes(FeatureShape(channels, height, width), dtype)
    return torch.where(stays, features, standardise.mean.to(features)), bits


def row_bytes(shape: FeatureShape, dtype: str) -> int:
    """Bytes of one image's features of a layer, as a store of `dtype` keeps them."""
    return Layout("zarr", dtype, "none", shape, rows=1, shard_rows=1).row_bytes
