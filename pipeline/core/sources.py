"""What is inverted: a layer of a backbone, and the shape of its features."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ParamsError


@dataclass(frozen=True, order=True)
class Source:
    """One layer of one backbone, written `vgg16.block1`."""

    backbone: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """`Source.parse("vgg16.block1")`. Raises ParamsError when it is not `backbone.layer`."""
        backbone, dot, layer = text.partition(".")
        if not (backbone and dot and layer):
            raise ParamsError(f"source '{text}' is not of the form backbone.layer, for example vgg16.block1")
        return cls(backbone, layer)

    def __str__(self) -> str:
        return f"{self.backbone}.{self.layer}"


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
