"""Normalisation of images at the input of the backbone; no other place normalises them.

A network needs the normalisation it was trained with; with another, its features are those of a badly exposed
photograph. Published weights bring their own mean and standard deviation: torchvision's use ImageNet's, timm's
`augreg` vision transformers 0.5 and 0.5, DINOv2 and ConvNeXt ImageNet's. The numbers come from the library's record
of the weights. Random weights use ImageNet's, as published tables do. Weights from a file use those of the same
network's published weights (most such files are fine-tuned from them), unless `mean` and `std` in params.yaml say
otherwise. Both are part of `Backbone.describe()` and therefore of the fingerprint of every feature store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of R, G and B, in units of the [0, 1] range."""

    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalization:
        """From a library's record of how weights were trained."""
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


class Normalize(nn.Module):
    """RGB in [0, 1] → (RGB − mean) / std, shape (B, 3, H, W) unchanged."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        for name, values in (("mean", normalization.mean), ("std", normalization.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
