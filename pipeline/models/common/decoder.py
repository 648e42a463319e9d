"""The contract of decoders: from standardised features to RGB in [0, 1]."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ShapeError
from pipeline.core.registry import Registry
from pipeline.core.section import Section, parse_section
from pipeline.core.sources import FeatureShape, ImageSize


class Decoder(nn.Module, ABC):
    """Maps features (B, C, H, W) of one fixed shape to RGB images (B, 3, H', W').

    A subclass sets `output`, its last layer with parameters. All operations after it must be linear and without bias
    (a pixel shuffle, an inverse wavelet transform), so that a zero `output` gives a zero image.
    """

    class Options(Section):
        """The decoder's section of params.yaml."""

    output: nn.Conv2d

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Section) -> None:
        """A subclass takes its own `Options`, and raises ShapeError if it cannot make `image` from `shape`."""
        super().__init__()
        self.shape = shape
        self.image = image

    @property
    def name(self) -> str:
        """Registered name, which is the file's name."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """(B, C, H, W) to (B, 3, H', W') before the output activation, any real value."""

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """(B, C, H, W) to RGB (B, 3, H', W') in [0, 1], float32 also under autocast."""
        return torch.sigmoid(self.synthesize(features).float())

    def zero_output(self) -> None:
        """Set `output` to zero: `synthesize` is exactly 0 for any input, and gradients still reach `output`."""
        with torch.no_grad():
            for parameter in self.output.parameters():
                parameter.zero_()

    def whole_ratio(self) -> int:
        """Image edge over feature edge.

        Raises:
            ShapeError: it is not a whole number, or differs between height and width.
        """
        rows, columns = self.image.height / self.shape.height, self.image.width / self.shape.width
        if rows != columns or rows % 1:
            raise ShapeError(
                f"decoder {self.name}: features {self.shape} cannot become a {self.image} image; image over feature "
                f"edge is {rows:g} (height) and {columns:g} (width) and must be one whole number for both: "
                "choose another layer, or another prepare.crop"
            )
        return int(rows)

    def doublings(self) -> int:
        """The number of doublings from the feature grid to the image.

        Raises:
            ShapeError: the ratio of image to feature edge is not a power of two.
        """
        ratio = self.whole_ratio()
        if ratio & (ratio - 1):
            raise ShapeError(
                f"decoder {self.name}: features {self.shape} cannot become a {self.image} image by doubling; the ratio "
                f"{ratio} is not a power of two: choose decoder linear, patch_transformer or residual, which take any "
                "whole ratio"
            )
        return ratio.bit_length() - 1


DECODERS: Registry[type[Decoder]] = Registry("decoder", "pipeline.models.decoders")


def build_decoder(name: str, options: Mapping[str, Any], shape: FeatureShape, image: ImageSize) -> Decoder:
    """Build the decoder `name` from its plain section of params.yaml.

    Raises:
        ParamsError: unknown name, or wrong options.
        ShapeError: the decoder cannot make `image` from `shape`.
    """
    decoder = DECODERS.get(name)
    return decoder(shape, image, parse_section(decoder.Options, options, f"decoders.{name}"))
