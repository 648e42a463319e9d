"""What a network of any library must offer to be a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A library's model without its head.

    Attributes:
        model: the library's module; its state dict has the library's own keys.
        layer_names: the layers that can be had, shallow to deep.
        head_keys: keys of the library's full state dict that belong to the head, which is not kept.
    """

    model: nn.Module
    layer_names: tuple[str, ...]
    head_keys: frozenset[str]

    @abstractmethod
    def forward(self, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """Features at the positions `depths` (ascending) of `layer_names`, each (B, C, h, w), in one pass.

        `images` are normalised, (B, 3, H, W). Nothing deeper than the last of `depths` is computed, and no
        returned tensor is overwritten by what runs after it.
        """
