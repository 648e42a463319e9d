"""Inverts a vision transformer's blocks, then reads the pixels from the patch tokens linearly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.core.params import BackboneParams
from pipeline.core.runtime import computing_in
from pipeline.core.section import Count, Section
from pipeline.core.sources import Source
from pipeline.loading.loader import Example
from pipeline.models.common.linear import Linear
from pipeline.models.common.ridge import NormalEquations, solve
from pipeline.refinement.base import REFINERS, Examples, KnownLayer, Refiner, Step, error_share, squared_norm
from pipeline.refinement.token_blocks import TokenBlocks, check_token_blocks


@REFINERS.register("block_inverse")
class BlockInverse(Refiner):
    """Invert the blocks by t ← t + η (f − F(t)) for the tokens t that entered each block F.

    Each block adds a residual to its input, so the iteration converges if the residual is a contraction (Behrmann et
    al. 2019, "Invertible residual networks"); otherwise the best iterate is kept. The start image is not used. A ridge
    regression, fitted on training features inverted in the same way, reads the pixels from the tokens that entered the
    first block, minus the position embedding.
    """

    advice = "the blocks are not inverted far enough for the read-out; raise {budget}, or set {refine}: none"

    class Options(Section):
        damping: Annotated[float, Field(gt=0, le=1)]  # η
        readout_images: Count  # training images behind the read-out

    def __init__(self, layer: KnownLayer, budget: int, options: Options) -> None:
        """Raises ParamsError: not a plain vision transformer."""
        super().__init__(layer, budget, options)
        self.damping, self.readout_images = options.damping, options.readout_images
        shape = layer.shape
        self._blocks = TokenBlocks(layer.backbone, layer.source.layer, (shape.height, shape.width))
        self._readout = Linear(shape, layer.image, Linear.Options(kernel=1))

    @classmethod
    def check(cls, source: Source, entry: BackboneParams) -> None:
        check_token_blocks(source.backbone, entry, source.layer)

    @torch.no_grad()
    def learn(self, examples: Examples) -> None:
        """Fit the read-out on inverted training features; validation images choose its strength."""
        train = self._accumulate(examples.training(self.readout_images))
        judge = self._accumulate(examples.validation())
        weight = solve(train, judge).weight
        self._readout.load_solution(weight[:-1], weight[-1])
        self._readout.to(weight.device)

    def state(self) -> dict[str, Tensor]:
        return self._readout.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._readout.load_state_dict(state)
        self._readout.to(self._blocks.position.device)

    def refine(self, features: Float[Tensor, "b c h w"], start: Float[Tensor, "b 3 y x"]) -> Iterator[Step]:
        for tokens, error in self._inverted(features):
            with torch.no_grad():
                yield Step(self._readout(tokens), error)

    def _accumulate(self, pairs: Iterable[Example]) -> NormalEquations:
        """Normal equations from tokens, inverted with the whole budget, to pixels."""
        readout, device = self._readout, self._blocks.position.device
        equations = NormalEquations(readout.parts, readout.ratio, device)
        for pair in pairs:
            *_, (tokens, _) = self._inverted(*pair.inputs.features)
            equations.update(tokens, pair.targets)
        return equations

    def _inverted(self, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Patch tokens minus their position embedding, and the feature error, after each sweep."""
        for tokens, error in invert(self._blocks, features, self.damping, self.budget, self.layer.precision):
            yield tokens - self._blocks.position, error


@torch.no_grad()
def invert(
    blocks: TokenBlocks,
    features: Float[Tensor, "b c h w"],
    damping: float,
    sweeps: int,
    precision: str = "fp32",
) -> Iterator[tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]]:
    """Find the patch tokens that enter the first of `blocks` from the features that leave the last.

    A sweep runs every block once, the last block first: t ← t + damping · (target − output), where the target of a
    block is the current input of the next. The prefix tokens that enter a block are those that left the block before it
    in the previous sweep.

    Yields:
        After each sweep, the best tokens so far for each image, and their error: the norm of all blocks' residuals over
        the norm of the features.
    """
    height, width = features.shape[-2:]
    entering = [features.flatten(2).mT] * len(blocks.blocks)  # (B, h·w, C)
    prefixes = [blocks.prefix.expand(len(features), -1, -1)] * (len(entering) + 1)  # (B, prefix, C)
    count = blocks.prefix.shape[1]
    best, lowest = features, torch.full((len(features),), torch.inf, dtype=torch.float64, device=features.device)
    for _ in range(sweeps):
        first, target, unexplained = entering[0], features.flatten(2).mT, torch.zeros_like(lowest)
        for number in reversed(range(len(entering))):
            with computing_in(precision, features.device):
                leaving = blocks.blocks[number](torch.cat([prefixes[number], entering[number]], dim=1)).float()
            residual = target - leaving[:, count:]
            prefixes[number + 1] = leaving[:, :count]
            target = entering[number] = entering[number] + damping * residual
            unexplained += squared_norm(residual)
        error = error_share(unexplained, squared_norm(features))
        better = error < lowest  # false where the iteration diverged
        lowest = torch.where(better, error, lowest)
        best = torch.where(better[:, None, None, None], first.mT.unflatten(2, (height, width)), best)
        yield best, lowest
