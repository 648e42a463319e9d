"""The read-out: one convolution and a pixel shuffle, solved in closed form, for what is linearly decodable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from pipeline.core.section import Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import Decoder
from pipeline.models.common.patches import Part, by_kernel

WIDEST_FOR_3X3 = 256  # channels; above, 9·C unknowns outgrow a few hundred images of a coarse grid


def kernel_alone(channels: int, vector: bool) -> int:
    """The kernel that `kernel: null` means for one source with `channels`; a `vector` (1×1 grid) has no neighbours."""
    return 3 if channels <= WIDEST_FOR_3X3 and not vector else 1


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd (1, 3, 5 …), so that it has a centre")
    return kernel


class Linear(Decoder):
    """An affine map from a k×k neighbourhood of features to the r×r pixels under its centre.

    `synthesize` is pixel_shuffle(conv(x), r) with r the image edge over the feature edge. Row d of the
    convolution's (3·r·r, C·k·k) weight predicts channel d of `pixel_unshuffle(target, r)` from
    `unfold(x, k, padding=k // 2)`, whose rows run over (C, k, k). A linear regression between the two therefore solves
    for this layer. The output is clamped to [0, 1], without a sigmoid.

    Several sources (`parts` of the channels) may have different kernels. Then each size of kernel has one convolution
    over the channels of its parts, and the sum of the convolutions is shuffled.
    """

    class Options(Section):
        # null: 3 up to 256 channels of a source, 1 above and for a vector
        kernel: Annotated[int, Field(ge=1), AfterValidator(_odd)] | None

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options, parts: Sequence[Part] = ()) -> None:
        """Without `parts`, all channels are one part. Raises ShapeError: image over feature edge is no whole number."""
        super().__init__(shape, image, options)
        self.ratio = self.whole_ratio()
        vector = shape.height == shape.width == 1
        self.parts = tuple(parts) or ((shape.channels, options.kernel or kernel_alone(shape.channels, vector)),)
        widest, *others = by_kernel(self.parts)
        self.output = self._convolution(widest, bias=True)
        self.others = nn.ModuleList(self._convolution(kernel, bias=False) for kernel in others)

    def _convolution(self, kernel: int, bias: bool) -> nn.Conv2d:
        channels = sum(width for width, own in self.parts if own == kernel)
        return nn.Conv2d(channels, 3 * self.ratio**2, kernel, padding=kernel // 2, bias=bias)

    @property
    def _convolutions(self) -> list[nn.Conv2d]:
        return [self.output, *(each for each in self.others if isinstance(each, nn.Conv2d))]

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        if not self.others:
            return F.pixel_shuffle(self.output(features), self.ratio)
        sources = features.split([width for width, _ in self.parts], dim=1)
        groups = by_kernel(self.parts).values()
        blocks = [
            each(torch.cat([sources[place] for place in group], dim=1))
            for each, group in zip(self._convolutions, groups, strict=True)
        ]
        return F.pixel_shuffle(torch.stack(blocks).sum(0), self.ratio)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """(B, C, H, W) to RGB (B, 3, H', W'): the affine prediction clamped to [0, 1]."""
        return self.synthesize(features).float().clamp(0, 1)

    @torch.no_grad()
    def load_solution(self, weight: Float[Tensor, "d t"], bias: Float[Tensor, " t"]) -> None:
        """Set the weights to the solution of `unfolded @ weight + bias ≈ unshuffled`.

        Args:
            weight: (Σ C·k·k, 3·r·r), any float dtype and device. Rows are ordered by kernel, the largest first, then by
                part, then as in `unfold`; columns as in `pixel_unshuffle`.
            bias: (3·r·r,).
        """
        convolutions = self._convolutions
        rows = weight.split([each.weight[0].numel() for each in convolutions])
        for each, own in zip(convolutions, rows, strict=True):
            each.weight.copy_(own.T.reshape(each.weight.shape))
        assert self.output.bias is not None
        self.output.bias.copy_(bias)
