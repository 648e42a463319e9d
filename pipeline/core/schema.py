"""The sections of params.yaml as frozen, typed objects."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from pipeline.core.section import LINEAR, NONE, Count, Fraction, Names, Section
from pipeline.core.sources import Source

ALL, LAST = "all", re.compile(r"last([1-9]\d*)")  # in `layer`: every layer of a backbone's list, or its last ones


class SlotParams(Section):
    """Further sources of an ensemble, written as the first ones; both fields are `none` if the slot is unused."""

    backbone: str
    layer: str


class EnsembleParams(Section):
    second: SlotParams
    third: SlotParams
    fourth: SlotParams


class PrepareParams(Section):
    resize: Literal["squash", "short_side"]
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    size: Annotated[int, Field(ge=32, le=2048)]
    crop: Annotated[int, Field(ge=32, le=2048)]
    views: Annotated[int, Field(ge=1, le=1000)]
    smallest_edge: Count
    non_rgb: Literal["refuse", "convert"]
    colour_profile: Literal["convert", "ignore"]
    on_bad_image: Literal["stop", "skip"]


class BackboneParams(Section):
    """How to build a frozen network, and which of its layers to store.

    Attributes:
        library, model: the network, if its name is not in `pipeline.backbones.table`.
        weights: `random` (drawn with `seed`, which is then required), `imagenet` (the library's published weights, of
            which `tag` chooses), `package` (trained weights from an installed package), or the path of a file.
        mean, std: the normalisation of a file's network; by default that of the network's published weights.
    """

    library: Literal["torchvision", "timm"] | None = None
    model: str | None = None
    weights: Annotated[str, Field(min_length=1)]
    tag: str | None = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63, validate_default=True)] = None
    mean: Annotated[tuple[float, float, float] | None, Field(strict=False)] = None
    std: Annotated[tuple[float, float, float] | None, Field(strict=False)] = None
    layers: Names

    @field_validator("seed")
    @classmethod
    def _drawn_with_a_seed(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and info.data.get("weights") == "random":
            raise PydanticKnownError("missing")
        return value

    @property
    def kind(self) -> Literal["random", "imagenet", "package", "path"]:
        """The kind of `weights`."""
        return self.weights if self.weights in ("random", "imagenet", "package") else "path"  # type: ignore[return-value]

    def chosen(self, layer: str) -> tuple[str, ...]:
        """The layers that `layer` names: one, `all`, `last4` (of the list), or several of these joined by `+`.

        Returns: names in the order of the list, whatever their order in `layer`.

        Raises:
            KeyError: a part names no layer of the list, or more than it has.
        """
        named = (name for part in layer.split("+") for name in self._named(part))
        return tuple(sorted(named, key=self.layers.index))

    def _named(self, part: str) -> tuple[str, ...]:
        if part in self.layers:
            return (part,)
        last = LAST.fullmatch(part)
        count = len(self.layers) if part == ALL else int(last[1]) if last else 0
        if not 1 <= count <= len(self.layers):
            raise KeyError(part)
        return self.layers[-count:]


class ExtractParams(Section):
    """`batch_size` is the images in one pass; null: 16, or on a GPU a whole shard, halved until it fits."""

    precision: Literal["fp32", "bf16", "fp16"]
    batch_size: Count | None

    @property
    def cpu_batch_size(self) -> int:
        return self.batch_size or 16


class StoreParams(Section):
    """`format` is a name of `pipeline.stores.format.FORMATS`; the stages check it."""

    format: str
    dtype: Literal["float16", "float32", "bfloat16", "int8"]
    compression: Literal["none", "lz4", "zstd"]
    shard_megabytes: Count


class TrainParams(Section):
    protocol: str
    warm_start: Literal["none", "linear"]
    precision: Literal["auto", "fp32", "bf16"]
    resident: Literal["auto", "never", "always"]


class ProtocolParams(Section):
    """A training recipe: how a decoder is optimised."""

    optimizer: Literal["adam", "adamw", "muon"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"]
    warmup: Fraction
    batch_size: Count
    epochs: Count
    early_stopping: Annotated[int, Field(ge=0)]
    gradient_clip: Annotated[float, Field(ge=0)]
    ema: Fraction


class EvaluateParams(Section):
    """`refine` names an entry of `refiners`; `refine_budget` counts evaluations of the network for each image."""

    batch_size: Count
    bootstrap: Annotated[int, Field(ge=100)]
    strips: Count
    reconstructions: Count
    refine: str
    refine_budget: Count
    refine_images: Count | None


class TwoStageParams(Section):
    """The first of two stages: `refine` names an entry of `refiners`, `budget` counts evaluations of the network."""

    refine: str
    budget: Count


class DistanceParams(Section):
    """The network of a distance `features`, an entry of `backbones` or `none`, and the layers that it compares."""

    backbone: str
    layers: Names


class PerceptualParams(Section):
    """The networks of `features`: that of the loss term, and that of the metric."""

    loss: DistanceParams
    metric: DistanceParams


class Params(Section):
    """All of params.yaml; made by `load_params`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    dataset: str
    backbone: str
    layer: str
    decoder: str
    loss: str
    fusion: str
    ensemble: EnsembleParams
    prepare: PrepareParams
    datasets: dict[str, dict[str, Any]]
    backbones: dict[str, BackboneParams]
    extract: ExtractParams
    store: StoreParams
    decoders: dict[str, dict[str, Any]]
    fusions: dict[str, dict[str, Any]]
    losses: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]]
    perceptual: PerceptualParams
    two_stage: TwoStageParams
    train: TrainParams
    protocols: dict[str, ProtocolParams]
    evaluate: EvaluateParams
    refiners: dict[str, dict[str, Any]]

    @field_validator("backbones", mode="before")
    @classmethod
    def _networks_alone(cls, entries: Any) -> Any:
        """Drop the entry `none: {}`, which dvc.yaml needs for unused slots of an ensemble."""
        if not isinstance(entries, dict) or entries.get(NONE) != {}:
            return entries
        return {name: entry for name, entry in entries.items() if name != NONE}

    @property
    def sources(self) -> tuple[Source, ...]:
        """The inverted layers: those of `layer` and, with a fusion, those of the ensemble's slots."""
        return tuple(
            Source(backbone, layer)
            for backbone, layers in self.slots
            for layer in self.backbones[backbone].chosen(layers)
        )

    @property
    def slots(self) -> list[tuple[str, str]]:
        """Backbone and `layer` of each slot in use: the first one and, with a fusion, those of the ensemble."""
        slots = [(self.backbone, self.layer)]
        if self.fusion != NONE:
            further = (self.ensemble.second, self.ensemble.third, self.ensemble.fourth)
            slots += [(slot.backbone, slot.layer) for slot in further if slot.backbone != NONE]
        return slots

    def depth(self, source: Source) -> tuple[str, int, Source]:
        """A key that sorts sources by backbone, and the layers of each as its list has them: shallow to deep.

        Sources that no list has are sorted by name.
        """
        layers = self.backbones[source.backbone].layers if source.backbone in self.backbones else ()
        return source.backbone, layers.index(source.layer) if source.layer in layers else len(layers), source

    @property
    def recipe(self) -> ProtocolParams:
        """The training recipe that `train.protocol` names."""
        return self.protocols[self.train.protocol]

    @property
    def loss_terms(self) -> dict[str, float]:
        """The weight of each term of the chosen loss."""
        return self.losses[self.loss]

    @property
    def distances(self) -> dict[str, DistanceParams]:
        """The distances `features` in use: `loss` if the chosen loss has the term, `metric` if it has a network."""
        used = {"loss": bool(self.loss_terms.get("features")), "metric": self.perceptual.metric.backbone != NONE}
        return {name: getattr(self.perceptual, name) for name in used if used[name]}

    @property
    def dataset_options(self) -> dict[str, Any]:
        """Options of the chosen data set."""
        return self.datasets[self.dataset]

    @property
    def decoder_options(self) -> dict[str, Any]:
        """Options of the chosen decoder."""
        return self.decoders[self.decoder]

    @property
    def linear_options(self) -> dict[str, Any]:
        """Options of the read-out, which is also the warm start of other decoders."""
        return self.decoders[LINEAR]

    @property
    def fusion_options(self) -> dict[str, Any]:
        """Options of the chosen fusion."""
        return self.fusions[self.fusion]

    def refiner_options(self, name: str) -> dict[str, Any]:
        """Options of the refiner that `evaluate.refine` or `two_stage.refine` names."""
        return self.refiners[name]

    def backbone_params(self, name: str) -> BackboneParams:
        """How to build the network `name`. Raises KeyError: there is none."""
        return self.backbones[name]
