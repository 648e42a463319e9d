"""Transformers on a grid of features, shared by the decoders `attention` and `patch_transformer`."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ShapeError
from pipeline.core.section import Count, Section


class TokenOptions(Section):
    """Options of a `TokenMixer`, part of its decoder's section."""

    blocks: Count
    heads: Count
    mlp_ratio: Count
    positions: Literal["none", "sincos"]
    max_width: Count


class TransformerBlock(nn.Module):
    """Pre-norm block (Xiong et al. 2020): x + attention(norm(x)), then x + MLP(norm(x)).

    `scaled_dot_product_attention` never holds the scores of all pairs of tokens at once, so memory grows linearly with
    the number of tokens, up to the 12,544 of a 112×112 grid.
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


class TokenMixer(nn.Module):
    """Pre-norm transformer blocks on a feature grid, whose H·W positions are the tokens.

    With `positions: none` the blocks treat the tokens as a set; `sincos` first adds a fixed two-dimensional
    sine-cosine code (no parameters). A 1×1 convolution projects features of more than `max_width` channels to that
    width.
    """

    positions: Tensor | None

    def __init__(self, decoder: str, channels: int, grid: tuple[int, int], options: TokenOptions) -> None:
        """`decoder` is for messages. Raises ShapeError: the channels do not divide into the heads."""
        super().__init__()
        self.width = min(channels, options.max_width)
        codes = 4 if options.positions == "sincos" else 1
        for divisor, what in ((options.heads, f"decoders.{decoder}.heads"), (codes, "the sincos code")):
            if self.width % divisor:
                raise ShapeError(
                    f"decoder {decoder}: {self.width} channels do not divide into the {divisor} parts of {what}; "
                    f"change decoders.{decoder}.heads, positions, or max_width in params.yaml"
                )
        self.stem = nn.Identity() if self.width == channels else nn.Conv2d(channels, self.width, 1)
        code = sincos_positions(self.width, *grid) if options.positions == "sincos" else None
        self.register_buffer("positions", code, persistent=False)
        self.blocks = nn.Sequential(
            *(TransformerBlock(self.width, options.heads, options.mlp_ratio) for _ in range(options.blocks))
        )

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        grid = self.stem(features)
        tokens = grid.flatten(2).transpose(1, 2)  # (B, H·W, D)
        if self.positions is not None:
            tokens = tokens + self.positions
        return self.blocks(tokens).transpose(1, 2).unflatten(2, grid.shape[-2:])


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
