"""The contract of refiners: from cached features, a start image and the known network to refined images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.core.params import BackboneParams
from pipeline.core.registry import Registry
from pipeline.core.section import Section, parse_section
from pipeline.core.sources import FeatureShape, ImageSize, Source
from pipeline.loading.loader import Example
from pipeline.models.common.prior import ImagePrior

TINY = torch.finfo(torch.float64).tiny  # added to a divisor: zero stays zero, in any unit


@dataclass(frozen=True)
class KnownLayer:
    """The frozen network up to one layer, as a differentiable function of the image.

    `image` is the size of its images, `precision` (fp32, bf16 or fp16) that of the extraction.
    """

    source: Source
    backbone: Backbone
    image: ImageSize
    precision: str

    def __call__(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b c h w"]:
        """RGB images (an optimiser may leave [0, 1]) → features, float32."""
        return self.backbone.compute(images, self.precision)[self.source.layer].float()

    @property
    def shape(self) -> FeatureShape:
        return self.backbone.shapes(self.image)[self.source.layer]


class Examples(Protocol):
    """The examples from which a refiner may learn; the test split is not accessible."""

    def training(self, images: int) -> Iterable[Example]:
        """At most `images` training images, one view of each."""

    def validation(self) -> Iterable[Example]: ...

    def prior(self) -> ImagePrior:
        """The prior fitted on the training images. Raises DataError: it is missing."""


@dataclass(frozen=True)
class Step:
    """The state of a batch after one more evaluation of the network.

    images: (B, 3, H, W) in [0, 1]. feature_error: (B,), ‖f(x) − f‖ / ‖f‖ at the current point x, before it is clamped
    to an image; a method may define it differently.
    """

    images: Tensor
    feature_error: Tensor


class Refiner(ABC):
    """Searches for the image whose features, by the known network, match cached ones: a lower bound on their content.

    One evaluation is one pass through the network, with its backward pass if the method needs gradients.
    """

    advice: ClassVar[str]  # remedy when images get worse; {refine} and {budget} become the names of these settings

    class Options(Section):
        """The refiner's section of params.yaml."""

    def __init__(self, layer: KnownLayer, budget: int, options: Section) -> None:
        """`budget` is the number of evaluations for each image. A subclass takes its own `Options`."""
        self.layer, self.budget = layer, budget

    @classmethod
    def check(cls, source: Source, entry: BackboneParams) -> None:
        """Raise ParamsError if this refiner cannot work on such a network. Reads and computes nothing."""
        return  # most refiners accept any network

    def learn(self, examples: Examples) -> None:
        """Fit the method to `examples`; called once, before `refine`."""
        return  # most methods need no fit

    def state(self) -> dict[str, Tensor]:
        """The result of `learn`, to be saved."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a saved `state` instead of learning. Raises KeyError or RuntimeError: the state of another method."""
        if state:
            raise KeyError(next(iter(state)))

    @abstractmethod
    def refine(self, features: Float[Tensor, "b c h w"], start: Float[Tensor, "b 3 y x"]) -> Iterator[Step]:
        """Yield one step for each evaluation, at most `budget`; the last one is the result.

        Each image is refined independently: its result depends on the others of the batch only through rounding.

        Args:
            features: as read from the store, float32 for every stored type.
            start: RGB in [0, 1], a decoder's image.
        """


REFINERS: Registry[type[Refiner]] = Registry("refiner", "pipeline.refinement.refiners")


def build_refiner(name: str, options: Mapping[str, Any], layer: KnownLayer, budget: int) -> Refiner:
    """Build the refiner `name` from its plain section of params.yaml. Raises ParamsError: no such name or option."""
    refiner = REFINERS.get(name)
    return refiner(layer, budget, parse_section(refiner.Options, options, f"refiners.{name}"))


def squared_norm(values: Tensor) -> Float[Tensor, " b"]:
    """Squared norm of each (B, …) → (B,), in float64, where squares of small float32 numbers do not vanish."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64).square()


def relative_error(difference: Tensor, features: Tensor) -> Float[Tensor, " b"]:
    """‖difference‖ / ‖features‖ of each image, (B,) float64. For zero features: 1, or 0 if the difference is zero."""
    return error_share(squared_norm(difference), squared_norm(features)).detach()


def error_share(error: Float[Tensor, " b"], whole: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """√(error / whole) of squared norms; where `whole` is 0, any error gives 1."""
    return (error / torch.where(whole > 0, whole, error.clamp_min(TINY))).sqrt()
