"""The contracts of backbones: a library of networks, its networks, and the wrapper of a frozen network."""

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
    """A frozen network that maps RGB images (B, 3, H, W) in [0, 1] to the features of one or several layers.

    All features, and all gradients of features, are computed through this class.
    """

    name: str

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of every layer, each (B, C, h, w)."""

    def compute(self, images: Tensor, precision: str) -> dict[str, Tensor]:
        """`forward` in fp32 (without TF32), bf16 or fp16; gradients flow to images that require them."""
        with computing_in(precision, images.device):
            found: dict[str, Tensor] = self(images)
        return found

    @abstractmethod
    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        """Shape of each layer for images of this size, without computing features."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that determines the features, as plain values."""


class Network(nn.Module, ABC):
    """A library's model without its head.

    Attributes:
        model: the library's module; its state dict has the library's own keys.
        layer_names: the available layers, shallow to deep.
        head_keys: keys of the library's full state dict that belong to the removed head.
    """

    model: nn.Module
    layer_names: tuple[str, ...]
    head_keys: frozenset[str]

    @abstractmethod
    def forward(self, images: Tensor, depths: Sequence[int], whole: bool = False) -> list[Tensor]:
        """Features at the positions `depths` (ascending) of `layer_names`, each (B, C, h, w), in one pass.

        `images` are normalised, (B, 3, H, W). The pass ends at the last of `depths`, or, with `whole`, at the end of
        the network without its head. Later layers do not overwrite a returned tensor.
        """


@dataclass(frozen=True)
class Published:
    """Weights that a library offers for download."""

    label: str  # the library's own name for them
    normalization: Normalization  # of the images they were trained on
    file: CachedFile


class Library(ABC):
    """torchvision or timm: checks the names of its models, builds them, and loads their published weights."""

    @abstractmethod
    def check(self, name: str, model: str) -> None:
        """Raise ParamsError, naming `backbones.<name>.model`, if this library has no such `model`."""

    def check_maps(self, name: str, model: str) -> None:  # noqa: B027  (all of torchvision's families have maps)
        """Raise ParamsError if a model that passed `check` has no feature maps. May build it on the meta device."""

    @abstractmethod
    def build(self, model: str) -> Network:
        """The network as the library initialises it, on the default device."""

    @abstractmethod
    def published(self, name: str, model: str, tag: str | None) -> Published:
        """The weights with this `tag`, or the default ones (None), without using internet or disk.

        Raises:
            ParamsError: no such tag. WeightsError: the library publishes none for this model.
        """

    @abstractmethod
    def build_published(self, model: str, published: Published) -> Network:
        """The network with those weights, read from the library's cache, which must contain them."""


def reason(error: BaseException) -> str:
    """The message of a library's error on one line of at most 200 characters, or its class if it has none."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else words[:200] + "…"


def drop_head(model: nn.Module, heads: Iterable[str]) -> frozenset[str]:
    """Replace the modules `heads` by identities and return their keys, on which no feature depends."""
    before = set(model.state_dict())
    for head in heads:
        model.set_submodule(head, nn.Identity())
    return frozenset(before - set(model.state_dict()))
