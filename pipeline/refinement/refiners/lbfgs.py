"""The image with the nearest features, without a prior."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.section import Count, Section
from pipeline.refinement.base import REFINERS, KnownLayer, Refiner, Step, relative_error, squared_norm
from pipeline.refinement.descent import Evaluated, lbfgs


@REFINERS.register("lbfgs")
class Lbfgs(Refiner):
    """Minimise ‖f(x) − f‖² over x by L-BFGS (Mahendran & Vedaldi 2015, without their regulariser).

    Shallow layers lose almost nothing, and this method recovers it. Many images share a deep layer's features, and
    this method finds one that is no photograph: the feature error falls, and PSNR falls too.
    """

    advice = "many images have these features; set {refine}: map, or lower {budget}"

    class Options(Section):
        history: Count  # steps that L-BFGS remembers; each takes two images of memory

    def __init__(self, layer: KnownLayer, budget: int, options: Options) -> None:
        super().__init__(layer, budget, options)
        self.history = options.history

    def refine(self, features: Float[Tensor, "b c h w"], start: Float[Tensor, "b 3 y x"]) -> Iterator[Step]:
        size = squared_norm(features).sqrt()  # makes the objective independent of the features' unit
        if not size.all():  # for zero features, use the norm of the start image's features
            with torch.no_grad():
                size = torch.where(size > 0, size, squared_norm(self.layer(start)).sqrt())
        size = torch.where(size > 0, size, 1).to(features)[:, None, None, None]

        def objective(images: Tensor) -> Evaluated:
            with torch.enable_grad():
                images = images.detach().requires_grad_()
                difference = self.layer(images) - features
                value = squared_norm(difference / size)
                (gradient,) = torch.autograd.grad(value.sum(), images)
            return Evaluated(images.detach(), value.detach(), gradient, relative_error(difference, features))

        for now in lbfgs(objective, start, self.budget, self.history):
            yield Step(now.point.clamp(0, 1), now.error)
