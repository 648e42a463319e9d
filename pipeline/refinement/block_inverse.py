"""A vision transformer's blocks run backwards, then a linear read-out of the patch tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.decoders.linear import Linear
from pipeline.params import BackboneParams
from pipeline.refinement._token_blocks import TokenBlocks, check_token_blocks
from pipeline.refinement.base import REFINERS, Examples, KnownLayer, Pair, Refiner, Step, relative_error
from pipeline.ridge import NormalEquations, solve
from pipeline.section import Count, Section
from pipeline.sources import Source


@REFINERS.register("block_inverse")
class BlockInverse(Refiner):
    """Solve F(t) = f for the tokens t that entered the first block, by t ← t + η (f − F(t)) from t = f.

    F is all blocks up to the layer at once. Each adds a residual to its input, so F is near the identity and the
    iteration contracts as long as the residuals do (Behrmann et al. 2019, "Invertible residual networks"); where they
    do not, the best iterate is kept. The start image is not used. The pixels are read from t, less the position
    embedding, by a ridge regression fitted on training features that were treated alike.
    """

    class Options(Section):
        damping: Annotated[float, Field(gt=0, le=1)] = 0.6  # η
        readout_images: Count = 500  # training images behind the read-out

    def __init__(self, layer: KnownLayer, budget: int, options: Options) -> None:
        """Raises ParamsError: not a plain vision transformer."""
        super().__init__(layer, budget, options)
        self.damping, self.readout_images = options.damping, options.readout_images
        shape = layer.shape
        self._blocks = TokenBlocks(layer.backbone, layer.source.layer, (shape.height, shape.width))
        self._readout = Linear(shape, layer.image, Linear.Options(kernel=1))

    @classmethod
    def check(cls, source: Source, entry: BackboneParams) -> None:
        check_token_blocks(source.backbone, entry)

    @torch.no_grad()
    def learn(self, examples: Examples) -> None:
        """Fit the read-out on inverted training features, its strength judged on the validation images."""
        train = self._accumulate(examples.training(self.readout_images))
        judge = self._accumulate(examples.validation())
        weight = solve(train, judge).weight
        self._readout.load_solution(weight[:-1], weight[-1])
        self._readout.to(weight.device)

    def refine(self, features: Float[Tensor, "b c h w"], start: Float[Tensor, "b 3 y x"]) -> Iterator[Step]:
        for tokens, error in self._inverted(features):
            with torch.no_grad():
                yield Step(self._readout(tokens), error)

    def _accumulate(self, pairs: Iterable[Pair]) -> NormalEquations:
        """Normal equations from tokens, inverted with the whole budget, to pixels."""
        readout, device = self._readout, self._blocks.position.device
        equations = NormalEquations(readout.shape.channels, readout.kernel, readout.ratio, device)
        for pair in pairs:
            *_, (tokens, _) = self._inverted(pair.features[0])
            equations.update(tokens, pair.targets)
        return equations

    def _inverted(self, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Patch tokens less their position, and the feature error, after each evaluation."""

        def forward(tokens: Tensor) -> Tensor:
            with self.layer.precision():
                result: Tensor = self._blocks(tokens)
            return result.float()

        for tokens, error in invert(forward, features, self.damping, self.budget):
            yield tokens - self._blocks.position, error


@torch.no_grad()
def invert(
    forward: Callable[[Tensor], Tensor], outputs: Float[Tensor, "b c h w"], damping: float, evaluations: int
) -> Iterator[tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]]:
    """Solve forward(t) = outputs by t ← t + damping · (outputs − forward(t)), from t = outputs.

    Yields, after each evaluation, the best t so far for each image, and its ‖forward(t) − outputs‖ / ‖outputs‖.
    """
    guess = best = outputs
    lowest = torch.full((len(outputs),), torch.inf, dtype=torch.float64, device=outputs.device)
    for _ in range(evaluations):
        residual = outputs - forward(guess)
        error = relative_error(residual, outputs)
        better = error < lowest  # false where the iteration blew up
        lowest = torch.where(better, error, lowest)
        best = torch.where(better[:, None, None, None], guess, best)
        yield best, lowest
        guess = guess + damping * residual
