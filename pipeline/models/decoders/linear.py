"""What is linearly decodable: one convolution and a pixel shuffle, solved in closed form."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from pipeline.core.section import Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common.decoder import DECODERS, Decoder

WIDEST_FOR_3X3 = 256  # channels; above, 9·C unknowns outgrow a few hundred images of a coarse grid


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd (1, 3, 5 …), so that it has a centre")
    return kernel


@DECODERS.register("linear")
class Linear(Decoder):
    """An affine map from a k×k neighbourhood of features to the r×r pixels under its centre.

    `synthesize` is pixel_shuffle(conv(x), r), r the image edge over the feature edge. Row d of the
    convolution's (3·r·r, C·k·k) weight predicts channel d of `pixel_unshuffle(target, r)` from
    `unfold(x, k, padding=k // 2)`, whose rows run over (C, k, k): regressing the one on the other is
    solving for this layer. The output is clamped to [0, 1], not squashed.
    """

    class Options(Section):
        # null: 3 up to 256 channels, 1 above
        kernel: Annotated[int, Field(ge=1), AfterValidator(_odd)] | None = None

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        super().__init__(shape, image, options)
        self.ratio = self.whole_ratio()
        self.kernel = options.kernel or (3 if shape.channels <= WIDEST_FOR_3X3 else 1)
        self.output = nn.Conv2d(shape.channels, 3 * self.ratio**2, self.kernel, padding=self.kernel // 2)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        return F.pixel_shuffle(self.output(features), self.ratio)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """(B, C, H, W) to RGB (B, 3, H', W'): the affine prediction clamped to [0, 1]."""
        return self.synthesize(features).float().clamp(0, 1)

    @torch.no_grad()
    def load_solution(self, weight: Float[Tensor, "d t"], bias: Float[Tensor, " t"]) -> None:
        """Take the solution of `unfolded @ weight + bias ≈ unshuffled`.

        Args:
            weight: (C·k·k, 3·r·r), any float dtype and device; rows as `unfold`, columns as `pixel_unshuffle`.
            bias: (3·r·r,).
        """
        self.output.weight.copy_(weight.T.reshape(self.output.weight.shape))
        assert self.output.bias is not None
        self.output.bias.copy_(bias)
