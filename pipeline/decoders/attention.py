"""Transformer blocks on the feature grid, then transposed convolutions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.decoders.base import DECODERS, Decoder
from pipeline.decoders.blocks import halved_widths, transposed_ladder
from pipeline.errors import ShapeError
from pipeline.section import Count, Section
from pipeline.sources import FeatureShape, ImageSize


class TransformerBlock(nn.Module):
    """Pre-norm block (Xiong et al. 2020): x + attention(norm(x)), then x + MLP(norm(x)).

    The scores of all pairs of tokens are never held at once (`scaled_dot_product_attention`), so memory
    grows linearly with the tokens, up to the 12,544 of a 112×112 grid.
    """

    def __init__(self, channels: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels), nn.GELU(), nn.Linear(mlp_ratio * channels, channels)
        )

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        tokens = tokens + self.attend(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))

    def attend(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Multi-head self-attention of all tokens."""
        split = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, C / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind()  # (B, heads, N, C / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))


@DECODERS.register("attention")
class Attention(Decoder):
    """`blocks` pre-norm transformer blocks on the H·W tokens, then the ladder of `transposed_conv`.

    Without positions, as published, the blocks treat the tokens as a set; `sincos` adds a fixed
    two-dimensional sine-cosine code (no parameters) first. Features wider than `max_width` channels
    are projected to that width by a 1×1 convolution.
    """

    class Options(Section):
        blocks: Count = 4
        heads: Count = 8
        mlp_ratio: Count = 4
        positions: Literal["none", "sincos"] = "none"
        max_width: Count = 768
        min_channels: Count = 32

    positions: Tensor | None

    def __init__(self, shape: FeatureShape, image: ImageSize, options: Options) -> None:
        super().__init__(shape, image, options)
        steps = self.doublings()
        width = min(shape.channels, options.max_width)
        self._check_width(width, options)
        self.stem = nn.Identity() if width == shape.channels else nn.Conv2d(shape.channels, width, 1)
        code = sincos_positions(width, shape.height, shape.width) if options.positions == "sincos" else None
        self.register_buffer("positions", code, persistent=False)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, options.heads, options.mlp_ratio) for _ in range(options.blocks))
        )
        widths = halved_widths(width, steps, options.min_channels)
        self.ladder = transposed_ladder(widths)
        self.output = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def synthesize(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        grid = self.stem(features)
        tokens = grid.flatten(2).transpose(1, 2)  # (B, H·W, C)
        if self.positions is not None:
            tokens = tokens + self.positions
        mixed = self.blocks(tokens).transpose(1, 2).unflatten(2, grid.shape[-2:])  # (B, C, H, W)
        return self.output(self.ladder(mixed))

    def _check_width(self, width: int, options: Options) -> None:
        parts = 4 if options.positions == "sincos" else 1
        for divisor, what in ((options.heads, "decoders.attention.heads"), (parts, "the sincos code")):
            if width % divisor:
                raise ShapeError(
                    f"decoder attention: {width} channels do not divide into the {divisor} parts of {what}; change "
                    "decoders.attention.heads, positions, or max_width in params.yaml"
                )


def sincos_positions(channels: int, height: int, width: int) -> Tensor:
    """Fixed code of each grid position (Vaswani et al. 2017, in two dimensions as in MAE), (H·W, C).

    A quarter of the channels each: sine and cosine of the row, sine and cosine of the column, at
    wavelengths from 2π to 20,000π cells.
    """
    frequencies = 10000.0 ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
    rows = torch.arange(height, dtype=torch.float64)[:, None] * frequencies  # (H, C / 4)
    columns = torch.arange(width, dtype=torch.float64)[:, None] * frequencies  # (W, C / 4)
    by_row = torch.cat((rows.sin(), rows.cos()), 1)[:, None].expand(height, width, -1)
    by_column = torch.cat((columns.sin(), columns.cos()), 1)[None].expand(height, width, -1)
    return torch.cat((by_row, by_column), 2).flatten(0, 1).float()
