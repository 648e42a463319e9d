"""params.yaml: parsed here only, frozen, validated whole before any work starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.errors import ParamsError
from pipeline.core.section import Count, Fraction, Names, Section, parse_section, unknown_name
from pipeline.core.sources import Source

NONE = "none"
LINEAR = "linear"  # the decoder that is solved in closed form; warm starts and floors need it


class SlotParams(Section):
    """A further source of an ensemble, or `none`."""

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
    """How to build a frozen network and which of its layers to keep.

    `weights` is `random` (drawn with `seed`, which it needs), `imagenet` (the library's own, called `tag`), `package`
    (trained ones that an installed package brings), or a file's path.
    `mean` and `std` are what a file's network was trained with; without them, what its published weights were.
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
        """What `weights` is."""
        return self.weights if self.weights in ("random", "imagenet", "package") else "path"  # type: ignore[return-value]


class ExtractParams(Section):
    """`batch_size` counts the images of one pass; null: on a GPU a whole shard, halved until it fits, else 16."""

    precision: Literal["fp32", "bf16", "fp16"]
    batch_size: Count | None

    @property
    def cpu_batch_size(self) -> int:
        return self.batch_size or 16


class StoreParams(Section):
    """`format` is a name of `pipeline.stores.format.FORMATS`, which the stages hold it against."""

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
    """How a decoder is optimised: everything a training recipe fixes."""

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
    """A frozen network of `backbones`, or `none`, and the layers of it in which `features` is a distance."""

    backbone: str
    layers: Names


class PerceptualParams(Section):
    """`features` twice, as a loss term and as a metric: each with a network of its own."""

    loss: DistanceParams
    metric: DistanceParams


class Params(Section):
    """All of params.yaml. `load_params` is the way to get one."""

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
        """`none: {}` is no network: dvc.yaml asks for it where a slot of an ensemble is not used."""
        if not isinstance(entries, dict) or entries.get(NONE) != {}:
            return entries
        return {name: entry for name, entry in entries.items() if name != NONE}

    @property
    def sources(self) -> tuple[Source, ...]:
        """The inverted layers: one, or two to four when a fusion is chosen."""
        first = Source(self.backbone, self.layer)
        if self.fusion == NONE:
            return (first,)
        slots = (self.ensemble.second, self.ensemble.third, self.ensemble.fourth)
        return (first, *(Source(s.backbone, s.layer) for s in slots if s.backbone != NONE))

    @property
    def recipe(self) -> ProtocolParams:
        """How the decoder is optimised: the protocol that `train.protocol` names."""
        return self.protocols[self.train.protocol]

    @property
    def loss_terms(self) -> dict[str, float]:
        """Terms of the chosen loss, with their weights."""
        return self.losses[self.loss]

    @property
    def distances(self) -> dict[str, DistanceParams]:
        """Networks behind `features` that are used: of the `loss` where it has the term, of the `metric` if any."""
        asked = {"loss": bool(self.loss_terms.get("features")), "metric": self.perceptual.metric.backbone != NONE}
        return {name: getattr(self.perceptual, name) for name, used in asked.items() if used}

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
        """Options of the closed-form linear decoder, which stands under the others, too."""
        return self.decoders[LINEAR]

    @property
    def fusion_options(self) -> dict[str, Any]:
        """Options of the chosen fusion."""
        return self.fusions[self.fusion]

    def refiner_options(self, name: str) -> dict[str, Any]:
        """Options of the refiner that `evaluate.refine` or `two_stage.refine` names."""
        return self.refiners[name]

    def backbone_params(self, name: str) -> BackboneParams:
        """How to build the network called `name`. Raises KeyError when there is none."""
        return self.backbones[name]


def load_params(path: Path = Path("params.yaml"), overrides: Iterable[str] = ()) -> Params:
    """Read and validate `path`, with `key=value` overrides (dotted keys, YAML values) applied first.

    Raises:
        ParamsError: unreadable YAML, an unknown key or name, a wrong type or range. All problems at once.
    """
    values = _read(path)
    for override in overrides:
        _apply(values, override)
    params = parse_section(Params, values)
    problems = [*_unknown_names(params), *_contradictions(params)]
    if problems:
        raise ParamsError("\n".join(problems))
    return params


def _read(path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing; run from the project's root, or `git checkout {path}`") from None
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read ({error}); --params takes a text file") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds no keys; restore it with `git checkout {path}`")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, value = parse_override(override)
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ParamsError(f"--set {override}: '{parent}' is a value, not a section")
    section[last] = value


def parse_override(override: str) -> tuple[str, Any]:
    """`train.protocol=published` → the dotted key and its YAML value. Raises ParamsError when it is no such thing."""
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise ParamsError(f"--set {override}: must be key=value, for example --set train.protocol=published")
    try:
        return key, YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise ParamsError(f"--set {override}: '{text}' is not a YAML value") from None


def _unknown_names(params: Params) -> Iterable[str]:
    """Names that select a section which is not there."""
    chosen = (
        ("dataset", params.dataset, params.datasets),
        ("decoder", params.decoder, params.decoders),
        ("loss", params.loss, params.losses),
        ("fusion", params.fusion, params.fusions),
        ("train.protocol", params.train.protocol, params.protocols),
        ("two_stage.refine", params.two_stage.refine, params.refiners),
        ("evaluate.refine", params.evaluate.refine, params.refiners),
    )
    for key, value, legal in chosen:
        if value not in legal:
            yield unknown_name(key, value, legal)
    for key in ("loss", "metric"):
        yield from _unknown_layers(params, f"perceptual.{key}", getattr(params.perceptual, key))
    slots = (("", Source(params.backbone, params.layer)), *_ensemble_slots(params))
    for prefix, source in slots:
        yield from _unknown_source(params, prefix, source)


def _unknown_layers(params: Params, key: str, chosen: DistanceParams) -> Iterable[str]:
    if chosen.backbone == NONE:
        return
    if chosen.backbone not in params.backbones:
        yield unknown_name(f"{key}.backbone", chosen.backbone, [*params.backbones, NONE])
        return
    legal = params.backbones[chosen.backbone].layers
    if not chosen.layers:
        yield f"params.yaml: {key}.layers is empty; list some of: {', '.join(legal)}"
    for layer in chosen.layers:
        if layer not in legal:
            yield unknown_name(f"{key}.layers", layer, legal) + f" (or add it to backbones.{chosen.backbone}.layers)"


def _ensemble_slots(params: Params) -> Iterable[tuple[str, Source]]:
    for name in ("second", "third", "fourth"):
        slot = getattr(params.ensemble, name)
        yield f"ensemble.{name}.", Source(slot.backbone, slot.layer)


def _unknown_source(params: Params, prefix: str, source: Source) -> Iterable[str]:
    networks = list(params.backbones)
    if source.backbone == NONE and prefix:
        return
    if source.backbone not in networks:
        yield unknown_name(f"{prefix}backbone", source.backbone, [*networks, NONE] if prefix else networks)
    elif source.layer not in params.backbones[source.backbone].layers:
        legal = params.backbones[source.backbone].layers
        yield (
            unknown_name(f"{prefix}layer", source.layer, legal) + f" (or add it to backbones.{source.backbone}.layers)"
        )


def _contradictions(params: Params) -> Iterable[str]:
    """Rules that tie two keys together, in the words the user typed."""
    if params.prepare.crop > params.prepare.size:
        yield (
            f"params.yaml: prepare.crop = {params.prepare.crop} is larger than prepare.size = "
            f"{params.prepare.size}; a crop must fit into the stored image"
        )
    different = 2 * (params.prepare.size - params.prepare.crop + 1) ** 2
    if params.prepare.crop <= params.prepare.size and params.prepare.views > different:
        yield (
            f"params.yaml: prepare.views = {params.prepare.views}, but only {different} different crops of "
            f"{params.prepare.crop} fit into {params.prepare.size}; lower prepare.views or prepare.crop"
        )
    if params.fusion != NONE and len(params.sources) < 2:
        yield (
            f"params.yaml: fusion = {params.fusion!r} needs a second source; set ensemble.second.backbone "
            "and ensemble.second.layer, or fusion: none"
        )
    for key, chosen in (("two_stage", params.two_stage), ("evaluate", params.evaluate)):
        if chosen.refine != NONE and len(params.sources) > 1:
            yield (
                f"params.yaml: {key}.refine = {chosen.refine!r} matches the features of one source, and fusion "
                f"= {params.fusion!r} has {len(params.sources)}; set {key}.refine: none, or fusion: none"
            )
    if LINEAR not in params.decoders:
        yield (
            "params.yaml: the section decoders.linear is missing; warm starts and floors need it: "
            "add linear: {kernel: null}"
        )
    for name, slot in _ensemble_slots(params):
        if slot.backbone == NONE and slot.layer != NONE:
            yield f"params.yaml: {name}layer = {slot.layer!r} has no network; set {name}backbone, or layer: none"
    for name, terms in params.losses.items():
        if not any(terms.values()):
            yield f"params.yaml: losses.{name} = {terms} has no term above 0; give at least one term a weight"
    if params.losses.get(params.loss, {}).get("features") and params.perceptual.loss.backbone == NONE:
        yield f"params.yaml: loss = {params.loss!r} has the term features, and no network: set perceptual.loss.backbone"
    for name, protocol in params.protocols.items():
        if protocol.schedule == "plateau" and protocol.warmup:
            yield (
                f"params.yaml: protocols.{name}.warmup = {protocol.warmup} has no meaning with schedule: plateau; "
                "set it to 0.0"
            )
    if len(set(params.sources)) < len(params.sources):
        yield f"params.yaml: the ensemble names a source twice ({', '.join(map(str, params.sources))})"
