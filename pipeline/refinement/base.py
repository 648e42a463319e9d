"""The contract of every refiner: cached features, a start image and the known frozen network in; images out."""

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

TINY = torch.finfo(torch.float64).tiny  # under a norm: what is all zero stays so, in any unit


@dataclass(frozen=True)
class KnownLayer:
    """The frozen network up to one layer, as a differentiable function of the image.

    `image` is the size that it is used at, `precision` (fp32, bf16 or fp16) what the features were extracted in.
    """

    source: Source
    backbone: Backbone
    image: ImageSize
    precision: str

    def __call__(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b c h w"]:
        """RGB in [0, 1], or what an optimiser makes of it, → features, float32."""
        return self.backbone.compute(images, self.precision)[self.source.layer].float()

    @property
    def shape(self) -> FeatureShape:
        return self.backbone.shapes(self.image)[self.source.layer]


class Examples(Protocol):
    """What a refiner may learn from. There is no way from here to the test split."""

    def training(self, images: int) -> Iterable[Example]:
        """At most `images` training images, one view of each."""

    def validation(self) -> Iterable[Example]: ...

    def prior(self) -> ImagePrior:
        """Fitted on the training images. Raises DataError when it is not there."""


@dataclass(frozen=True)
class Step:
    """Where the images of a batch stand after one more evaluation of the network.

    images: (B, 3, H, W) in [0, 1]. feature_error: (B,), what is left of the features at the point that the method has
    come to, over their norm. That is ‖f(x) − f‖ / ‖f‖ before the point is clamped to an image, unless the method says
    otherwise.
    """

    images: Tensor
    feature_error: Tensor


class Refiner(ABC):
    """Matches cached features again through the known network: what a layer holds, not what a decoder gets.

    One evaluation is one pass through the network, with its backward pass where the method needs gradients.
    """

    advice: ClassVar[str]  # for a user whose images get worse; {refine} and {budget} are the names of those settings

    class Options(Section):
        """The refiner's section of params.yaml."""

    def __init__(self, layer: KnownLayer, budget: int, options: Section) -> None:
        """`budget` is the number of evaluations for each image. A subclass takes its own `Options`."""
        self.layer, self.budget = layer, budget

    @classmethod
    def check(cls, source: Source, entry: BackboneParams) -> None:
        """Raise ParamsError where this cannot work on such a network. Nothing is read or computed."""
        return  # most take any network

    def learn(self, examples: Examples) -> None:
        """Fit what the method needs; called once, before `refine`."""
        return  # most know all they need

    def state(self) -> dict[str, Tensor]:
        """What `learn` found, to be saved."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what another one's `learn` found, instead of learning. Raises KeyError, RuntimeError: not its."""
        if state:
            raise KeyError(next(iter(state)))

    @abstractmethod
    def refine(self, features: Float[Tensor, "b c h w"], start: Float[Tensor, "b 3 y x"]) -> Iterator[Step]:
        """One step an evaluation, at most `budget` of them; the last one is the result.

        Args:
            features: as read from the store, float32 whatever its dtype.
            start: RGB in [0, 1], a decoder's image.

        Each image is refined by itself: its result depends on the others of the batch by rounding alone.
        """


REFINERS: Registry[type[Refiner]] = Registry("refiner", "pipeline.refinement.refiners")


def build_refiner(name: str, options: Mapping[str, Any], layer: KnownLayer, budget: int) -> Refiner:
    """Build the refiner `name` from its plain section of params.yaml. Raises ParamsError: no such name or option."""
    refiner = REFINERS.get(name)
    return refiner(layer, budget, parse_section(refiner.Options, options, f"refiners.{name}"))


def squared_norm(values: Tensor) -> Float[Tensor, " b"]:
    """(B, …) → (B,) float64; no square of a small float32 number is lost."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64).square()


def relative_error(difference: Tensor, features: Tensor) -> Float[Tensor, " b"]:
    """‖difference‖ / ‖features‖ of each image, (B,) float64; of features that are all zero 1, or 0."""
    return error_share(squared_norm(difference), squared_norm(features)).detach()


def error_share(error: Float[Tensor, " b"], whole: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """√(error / whole) of squared norms, a number also where `whole` is 0: there any error is 1."""
    return (error / torch.where(whole > 0, whole, error.clamp_min(TINY))).sqrt()
