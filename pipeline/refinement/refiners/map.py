"""The most probable photograph, given its features and the prior of photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.core.section import Count, Fraction, Section
from pipeline.models.common.prior import Filter, ImagePrior
from pipeline.refinement.base import REFINERS, Examples, KnownLayer, Refiner, Step, relative_error, squared_norm
from pipeline.refinement.descent import Evaluated, Objective, lbfgs, nesterov

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
GAIN = "gain"  # name of the network's gain in the saved state
GAIN_IMAGES = 8  # training images at which the network's gain is measured
DIFFERENCE = 1e-3  # standard deviation of the noise, in units of [0, 1], that measures it


@REFINERS.register("map")
class Map(Refiner):
    """Minimise ‖f(x) − f‖² / α + λ (x − m)ᵀ C⁻¹ (x − m), for each λ in turn.

    C and m are the Gaussian prior of the training photographs. α is the mean gain of the network, ‖J v‖² / ‖v‖² for
    white noise v, so that λ is a variance of noise per pixel at any scale of the features. The minimisation runs over
    z = P⁻¹ (x − m) with P = (I + λ C⁻¹)^(-½), in which the sum of both terms has similar curvature in every direction;
    there the prior is ‖z‖² − ‖x − m‖². (MAP with a quadratic prior: Mahendran & Vedaldi 2015, section 2.)
    """

    advice = (
        "the most probable image is not the nearest one here; try other refiners.map.strengths, lower {budget}, or set "
        "{refine}: none"
    )

    class Options(Section):
        strengths: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]  # λ, in turn
        descent: Literal["accelerated", "lbfgs"]  # lbfgs where directions are curved very differently
        step: Positive  # accelerated: on the gradient of half the objective, whose curvature is about 1
        momentum: Fraction  # accelerated
        history: Count  # lbfgs: steps remembered; each takes two images of memory

    options: Options

    def __init__(self, layer: KnownLayer, budget: int, options: Options) -> None:
        super().__init__(layer, budget, options)
        self.options = options
        self._prior: ImagePrior | None = None
        self._gain = 1.0

    def learn(self, examples: Examples) -> None:
        """Read the prior, and measure the network's gain on training images."""
        self._prior = examples.prior()
        gains = [network_gain(self.layer, pair.targets) for pair in examples.training(GAIN_IMAGES)]
        self._gain = float(torch.cat(gains).mean()) or 1.0  # 0 for a constant layer, where only the prior matters

    def state(self) -> dict[str, Tensor]:
        assert self._prior is not None, "learn comes first"
        return {**vars(self._prior), GAIN: torch.tensor(self._gain, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._prior = ImagePrior(state["mean"], state["variances"], state["axes"])
        self._gain = float(state[GAIN])

    def refine(self, features: Float[Tensor, "b c h w"], start: Float[Tensor, "b 3 y x"]) -> Iterator[Step]:
        assert self._prior is not None, "learn comes first"
        prior, images = self._prior.to(start.device), start
        strengths = self.options.strengths
        for strength, budget in zip(strengths, shares(self.budget, len(strengths)), strict=True):
            colour, whiten = prior.filter(shrinkage(strength)), prior.filter(expansion(strength))
            objective = self._objective(prior.mean, colour, features)
            whitened = whiten(images - prior.mean)
            for now in self._descend(objective, whitened, budget):
                images = prior.mean + colour(now.point)
                yield Step(images.clamp(0, 1), now.error)

    def _descend(self, objective: Objective, start: Tensor, budget: int) -> Iterator[Evaluated]:
        options = self.options
        if options.descent == "lbfgs":
            return lbfgs(objective, start, budget, options.history)
        return nesterov(objective, start, budget, options.step / 2, options.momentum)

    def _objective(self, mean: Tensor, colour: Filter, features: Tensor) -> Objective:
        def objective(latent: Tensor) -> Evaluated:
            with torch.enable_grad():
                latent = latent.detach().requires_grad_()
                centred = colour(latent)
                difference = self.layer(mean + centred) - features
                value = squared_norm(difference / self._gain**0.5) + squared_norm(latent) - squared_norm(centred)
                (gradient,) = torch.autograd.grad(value.sum(), latent)
            return Evaluated(latent.detach(), value.detach(), gradient, relative_error(difference, features))

        return objective


def shrinkage(strength: float) -> Callable[[Tensor], Tensor]:
    """P = (I + λ C⁻¹)^(-½) as a function of C's eigenvalues."""
    return lambda variances: (variances / (variances + strength)).sqrt()


def expansion(strength: float) -> Callable[[Tensor], Tensor]:
    """P⁻¹ as a function of C's eigenvalues."""
    return lambda variances: ((variances + strength) / variances).sqrt()


def network_gain(layer: KnownLayer, images: Tensor) -> Tensor:
    """‖J v‖² / ‖v‖² at each image (B, 3, H, W) in the direction of white noise, by a finite difference: (B,).

    Computed in float32, because in half precision the features' rounding would hide the difference.
    """
    generator = torch.Generator().manual_seed(0)
    noise = DIFFERENCE * torch.randn(images.shape, generator=generator).to(images)
    exact = replace(layer, precision="fp32")
    with torch.no_grad():
        change = exact(images + noise) - exact(images)
    return squared_norm(change) / squared_norm(noise)


def shares(total: int, parts: int) -> list[int]:
    """Divide `total` evaluations into `parts` nearly equal portions, the first ones larger."""
    return [total // parts + (part < total % parts) for part in range(parts)]
