"""What a library of networks, and a network of it, must offer to be a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.backbones.caches import CachedFile
from pipeline.backbones.normalization import Normalization
from pipeline.core.runtime import computing_in
from pipeline.core.sources import FeatureShape, ImageSize


class FrozenNetwork(nn.Module, ABC):
    """The one wrapper of a frozen network: RGB (B, 3, H, W) in [0, 1] in, the features of one or several layers out.

    Whoever wants features, gradients of them or normalised images has them from here.
    """

    name: str

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of every layer, each (B, C, h, w)."""

    def compute(self, images: Tensor, precision: str) -> dict[str, Tensor]:
        """`forward` in fp32 (no TF32), bf16 or fp16; gradients flow to the images where they are wanted."""
        with computing_in(precision, images.device):
            found: dict[str, Tensor] = self(images)
        return found

    @abstractmethod
    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        """Shape of each layer for images of this size, without computing anything."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that determines the features, as plain values."""


class Network(nn.Module, ABC):
    """A library's model without its head.

    Attributes:
        model: the library's module; its state dict has the library's own keys.
        layer_names: the layers to choose from, shallow to deep.
        head_keys: keys of the library's full state dict that belong to the head, which is not kept.
    """

    model: nn.Module
    layer_names: tuple[str, ...]
    head_keys: frozenset[str]

    @abstractmethod
    def forward(self, images: Tensor, depths: Sequence[int], whole: bool = False) -> list[Tensor]:
        """Features at the positions `depths` (ascending) of `layer_names`, each (B, C, h, w), in one pass.

        `images` are normalised, (B, 3, H, W). Nothing deeper than the last of `depths` is computed, unless the `whole`
        network is to run, up to where its head was. No returned tensor is overwritten by what runs after it.
        """


@dataclass(frozen=True)
class Published:
    """Weights that a library offers for download."""

    label: str  # the library's own name for them
    normalization: Normalization  # what they were trained with
    file: CachedFile


class Library(ABC):
    """torchvision or timm: how its models are named, built and given published weights."""

    @abstractmethod
    def check(self, name: str, model: str) -> None:
        """Raise ParamsError, naming `backbones.<name>.model`, when `model` is not one of this library's."""

    def check_maps(self, name: str, model: str) -> None:  # noqa: B027  (torchvision's families all do)
        """Raise ParamsError when a model that passed `check` gives no feature maps. May build it, without numbers."""

    @abstractmethod
    def build(self, model: str) -> Network:
        """The network as the library initialises it, on the default device."""

    @abstractmethod
    def published(self, name: str, model: str, tag: str | None) -> Published:
        """The weights called `tag`, or the default ones, without touching network or disk.

        Raises:
            ParamsError: no such tag. WeightsError: the library publishes none for this model.
        """

    @abstractmethod
    def build_published(self, model: str, published: Published) -> Network:
        """The network with those weights, read from the library's cache, where they must be."""


def reason(error: BaseException) -> str:
    """What a library said, in one line short enough for a sentence; the kind of error where it said nothing."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else words[:200] + "…"


def drop_head(model: nn.Module, heads: Iterable[str]) -> frozenset[str]:
    """Replace the modules called `heads` by nothing and return the keys that went: no feature depends on them."""
    before = set(model.state_dict())
    for head in heads:
        model.set_submodule(head, nn.Identity())
    return frozenset(before - set(model.state_dict()))
