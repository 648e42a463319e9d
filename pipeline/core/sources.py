"""Sources (layers of backbones), the shapes of their features, and the inputs of an inverter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.core.errors import ParamsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Source:
    """One layer of one backbone, written `vgg16.block1`. Sorted by backbone, then layer: `block2` before `block10`."""

    backbone: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse `backbone.layer`, such as `vgg16.block1`. Raises ParamsError for any other form."""
        backbone, dot, layer = text.partition(".")
        if not (backbone and dot and layer):
            raise ParamsError(f"source '{text}' is not of the form backbone.layer, for example vgg16.block1")
        return cls(backbone, layer)

    def __str__(self) -> str:
        return f"{self.backbone}.{self.layer}"

    @classmethod
    def slots(cls, sources: Iterable[Source]) -> list[tuple[str, str]]:
        """Backbone and layers of each slot of params.yaml: `("vgg16", "block1+block3")`, in order of first mention."""
        found: dict[str, list[str]] = {}
        for source in sources:
            found.setdefault(source.backbone, []).append(source.layer)
        return [(backbone, "+".join(layers)) for backbone, layers in found.items()]

    def __lt__(self, other: Source) -> bool:
        return self._place < other._place

    @property
    def _place(self) -> tuple[str, list[str | int], str]:
        """Texts and numbers alternate, so that two places always compare."""
        parts = re.split(r"(\d+)", self.layer)
        return self.backbone, [int(part) if part.isdecimal() else part for part in parts], self.layer


@dataclass(frozen=True)
class FeatureShape:
    """Channels, height and width of one row of features."""

    channels: int
    height: int
    width: int

    @property
    def elements(self) -> int:
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}×{self.height}×{self.width}"


@dataclass(frozen=True)
class ImageSize:
    """Height and width of an image in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}×{self.width}"


@dataclass  # not frozen: in mixed precision Fabric sets the fields of a copy
class Inputs(Generic[T]):
    """The inputs of an inverter, as stores, shapes or batches of tensors.

    features: one for each source, in the inverter's order. image: that of the refined image in two stages, else None.

    Iteration yields the features, then the image: the order of a saved model's parts.
    """

    features: tuple[T, ...]
    image: T | None = None

    def __iter__(self) -> Iterator[T]:
        yield from self.features
        if self.image is not None:
            yield self.image

    def map(self, change: Callable[..., S], *others: Iterable[Any]) -> Inputs[S]:
        """Apply `change` to each input; its further arguments come from `others`, one element for each input."""
        changed = [change(*each) for each in zip(self, *others, strict=True)]
        count = len(self.features)
        return Inputs(tuple(changed[:count]), *changed[count:])

    def to(self: Inputs[Tensor], device: torch.device) -> Inputs[Tensor]:
        return self.map(lambda each: each.to(device))

    def at(self: Inputs[Tensor], rows: Any) -> Inputs[Tensor]:
        """The rows selected by an index, a slice or a tensor of indices."""
        return self.map(lambda each: each[rows])
