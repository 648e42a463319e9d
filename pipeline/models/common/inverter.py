"""The inverter, from cached features to an image: standardise, fuse, decode; optionally added to the read-out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import CheckpointError, PipelineError, ShapeError
from pipeline.core.former import recorded
from pipeline.core.params import LINEAR, NONE, Params
from pipeline.core.runtime import computing_in
from pipeline.core.section import parse_section
from pipeline.core.sources import FeatureShape, ImageSize, Inputs, Source
from pipeline.models.common.checkpoint import load_model
from pipeline.models.common.decoder import Decoder, build_decoder
from pipeline.models.common.fusion import Fusion, build_fusion, resampled
from pipeline.models.common.linear import Linear, kernel_alone
from pipeline.stores.manifest import varying

REFINED_INPUT = "refined image"
RGB = 3  # channels of an image


@dataclass(frozen=True)
class Blueprint:
    """Everything that determines an inverter's modules and shapes, as plain values to be saved beside the weights.

    Attributes:
        linear: options of the read-out to which the decoder is added (warm start), or None.
        two_stage: whether a refined image follows the one source as a further input.
        kernels: the read-out's kernel for each input; empty in older models, whose options had one for all channels.
        apart: positions of sources with one common grid, which the read-out also reads on that grid, because alone
            they were more accurate there than all sources on the largest grid.
    """

    sources: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]  # (C, H, W) of each source
    image: tuple[int, int]  # height, width
    decoder: str
    decoder_options: Mapping[str, Any]
    fusion: str
    fusion_options: Mapping[str, Any]
    linear: Mapping[str, Any] | None
    two_stage: bool = False
    kernels: tuple[int, ...] = ()
    apart: tuple[int, ...] = ()

    @classmethod
    def of(cls, params: Params, shapes: Mapping[Source, FeatureShape], image: ImageSize) -> Blueprint:
        """The blueprint for `params`. Sources are sorted, so that the order in which it names them changes nothing."""
        sources = sorted(shapes, key=params.depth)
        warm = params.train.warm_start == LINEAR and params.decoder != LINEAR
        kernel = parse_section(Linear.Options, params.linear_options, f"decoders.{LINEAR}").kernel
        linear = {name: value for name, value in params.linear_options.items() if name != "kernel"}  # see `kernels`
        chosen = cls(
            sources=tuple(map(str, sources)),
            shapes=tuple((shapes[s].channels, shapes[s].height, shapes[s].width) for s in sources),
            image=(image.height, image.width),
            decoder=params.decoder,
            decoder_options=linear if params.decoder == LINEAR else params.decoder_options,
            fusion=params.fusion,
            fusion_options=params.fusion_options,
            linear=linear if warm else None,
            two_stage=params.two_stage.refine != NONE,
        )
        if chosen.linear is None and chosen.decoder != LINEAR:
            return chosen
        vector = all(shapes[source].height == shapes[source].width == 1 for source in sources)
        return replace(chosen, kernels=tuple(kernel or kernel_alone(width, vector) for width in chosen.widths))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Blueprint:
        """The inverse of `plain`, for values read from JSON (lists become tuples again)."""
        shapes = tuple((c, h, w) for c, h, w in values["shapes"])
        height, width = values["image"]
        later = {
            "decoder_options": recorded(f"decoders.{values['decoder']}", values["decoder_options"]),
            "fusion_options": recorded(f"fusions.{values['fusion']}", values["fusion_options"]),
            **{name: tuple(values.get(name, ())) for name in ("kernels", "apart")},
        }  # older models lack some of it
        return cls(
            **{**values, **later, "sources": tuple(values["sources"]), "shapes": shapes, "image": (height, width)}
        )

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def inputs(self) -> Inputs[tuple[int, int, int]]:
        """(C, H, W) of each input."""
        return Inputs(self.shapes, (RGB, *self.image) if self.two_stage else None)

    @property
    def block(self) -> int:
        """In two stages, the edge of the block of pixels under one feature. Raises ShapeError: not a whole number."""
        ((channels, height, width),) = self.shapes
        ratios = {self.image[0] / height, self.image[1] / width}
        ratio = ratios.pop()
        if ratios or ratio % 1:
            raise ShapeError(
                f"two_stage.refine: features {FeatureShape(channels, height, width)} do not divide a "
                f"{ImageSize(*self.image)} image into square blocks of whole pixels; choose another layer, another "
                "prepare.crop, or two_stage.refine: none"
            )
        return int(ratio)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each input at one feature position; for an image, those of its block of pixels."""
        channels = tuple(channels for channels, _, _ in self.shapes)
        return (*channels, RGB * self.block**2) if self.two_stage else channels


class Standardise(nn.Module):
    """Standardise each channel to zero mean and unit variance, by the training rows' statistics in the manifest.

    The mean is float64, because far from zero the rounding of a float32 mean can exceed a channel's deviation.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    def fit(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Set the statistics, each (C,); a constant channel becomes zero.

        Where the reciprocal of a deviation exceeds float32, the scale is the largest float32 number.
        """
        alive = torch.from_numpy(varying(mean.double().numpy(), std.double().numpy()))
        scale = std.reciprocal().clamp_max(torch.finfo(self.scale.dtype).max)
        self.mean.copy_(mean[:, None, None])
        self.scale.copy_(torch.where(alive, scale, 0)[:, None, None])

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        nearest = self.mean.float()
        rest = (self.mean - nearest).float()
        return torch.addcmul(-rest * self.scale, features - nearest, self.scale)


class Inverter(nn.Module):
    """Maps features of one or several sources to RGB (B, 3, H, W).

    In two stages there is one source and its refined image (B, 3, H, W), whose pixels under each feature are further
    channels of that feature.

    In evaluation mode the image is clamped to [0, 1]. In training mode the sum of read-out and decoder is not clamped,
    because a clamp has no gradient outside.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        """Raises ShapeError when the decoder or the fusion cannot work at these shapes."""
        super().__init__()
        self.blueprint = blueprint
        shapes = [FeatureShape(*shape) for shape in blueprint.shapes]
        image = ImageSize(*blueprint.image)
        self.standardise = nn.ModuleList(Standardise(channels) for channels, _, _ in blueprint.inputs)
        if blueprint.two_stage:
            shapes = [replace(shapes[0], channels=sum(blueprint.widths))]
        self.grid = (max(s.height for s in shapes), max(s.width for s in shapes))
        stacked = FeatureShape(sum(s.channels for s in shapes), *self.grid)
        options = blueprint.decoder_options if blueprint.decoder == LINEAR else blueprint.linear
        self.linear: Linear | None = None
        if options is not None:
            parts = tuple(zip(blueprint.widths, blueprint.kernels, strict=True)) if blueprint.kernels else ()
            section = f"decoders.{LINEAR}"
            chosen = parse_section(Linear.Options, recorded(section, options), section)
            self.linear = Linear(stacked, image, chosen, parts)
        self.apart = nn.ModuleList([self.reading(blueprint.apart)] if blueprint.apart else [])
        self.fusion: Fusion | None = None
        self.decoder: Decoder | None = None
        if blueprint.decoder != LINEAR:
            self.fusion = build_fusion(blueprint.fusion, blueprint.fusion_options, shapes)
            self.decoder = build_decoder(blueprint.decoder, blueprint.decoder_options, self.fusion.shape, image)
            if self.linear is not None:
                self.decoder.zero_output()

    def reading(self, places: Sequence[int]) -> Linear:
        """A read-out of sources with one common grid. Raises ShapeError: the grid does not divide the image."""
        shapes = [FeatureShape(*self.blueprint.shapes[place]) for place in places]
        shape = FeatureShape(sum(each.channels for each in shapes), shapes[0].height, shapes[0].width)
        parts = tuple(
            (each.channels, self.blueprint.kernels[place]) for place, each in zip(places, shapes, strict=True)
        )
        return Linear(shape, ImageSize(*self.blueprint.image), Linear.Options(kernel=None), parts)

    def coarser(self) -> list[tuple[tuple[int, ...], Linear]]:
        """Candidates for `read_apart`: for each grid other than `grid`, the positions of its sources and a read-out."""
        grids: dict[tuple[int, int], list[int]] = {}
        for place, (_, height, width) in enumerate(self.blueprint.shapes):
            grids.setdefault((height, width), []).append(place)
        found = []
        for places in (tuple(each) for grid, each in grids.items() if grid != self.grid):
            with suppress(ShapeError):  # these sources alone have no read-out
                found.append((places, self.reading(places).to(self.device)))
        return found

    def read_apart(self, places: Sequence[int], reading: Linear) -> None:
        """Add one of `coarser` to the read-out."""
        self.blueprint = replace(self.blueprint, apart=tuple(places))
        self.apart = nn.ModuleList([reading])

    @property
    def readout(self) -> nn.Module | None:
        """The modules solved in closed form; None without a read-out."""
        return nn.ModuleList([self.linear, *self.apart]) if self.linear is not None and self.apart else self.linear

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, in the order of `forward`'s features."""
        return tuple(map(Source.parse, self.blueprint.sources))

    @property
    def inputs(self) -> Inputs[str]:
        """The names of `forward`'s inputs."""
        return Inputs(self.blueprint.sources, REFINED_INPUT if self.blueprint.two_stage else None)

    def fit_statistics(self, statistics: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set mean and standard deviation, each (C,), of every input, in order."""
        for standardise, (mean, std) in zip(self.standardise, statistics, strict=True):
            assert isinstance(standardise, Standardise)
            standardise.fit(mean, std)

    def varies(self, place: int) -> bool:
        """Whether any channel of the input at `place` varies over the training rows."""
        standardise = self.standardise[place]
        assert isinstance(standardise, Standardise)
        return bool(standardise.scale.any())

    def standardised(self, inputs: Inputs[Tensor]) -> tuple[Tensor, ...]:
        """Standardised features (B, C, H, W) of each source, joined with the pixels of the refined image if given."""
        found = inputs.map(lambda each, standardise: standardise(each), self.standardise)
        if found.image is None:
            return found.features
        return (torch.cat([*found.features, F.pixel_unshuffle(found.image, self.blueprint.block)], dim=1),)

    def stack(self, standardised: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """The input of the read-out: all sources resampled to the largest grid (bilinear), channels concatenated."""
        on_grid = [resampled(x, self.grid) for x in standardised]
        return on_grid[0] if len(on_grid) == 1 else torch.cat(on_grid, dim=1)

    def forward(self, inputs: Inputs[Tensor]) -> Float[Tensor, "b 3 y x"]:
        features = self.standardised(inputs)
        if self.decoder is None or self.fusion is None:
            image = self._read_out(features)
        elif self.linear is None:
            image = self.decoder(self.fusion(_channels_last(features)))
        else:
            image = self._read_out(features) + self.decoder.synthesize(self.fusion(_channels_last(features)))
        return image if self.training else image.clamp(0, 1)

    def _read_out(self, standardised: Sequence[Tensor]) -> Float[Tensor, "b 3 y x"]:
        """The read-out's image, in float32 also under autocast.

        bfloat16 would add an error of about 60 dB to the image, and training would not start at the read-out's
        solution.
        """
        assert self.linear is not None
        with computing_in("fp32", self.device):
            image = self.linear.synthesize(self.stack(standardised))
            for reading in self.apart:
                assert isinstance(reading, Linear)
                image = image + reading.synthesize(joined(standardised, self.blueprint.apart))
            return image


def joined(standardised: Sequence[Tensor], places: Sequence[int]) -> Float[Tensor, "b c h w"]:
    """The channels of the sources at `places`, which have one grid, concatenated."""
    return torch.cat([standardised[place] for place in places], dim=1)


def _channels_last(features: Sequence[Tensor]) -> list[Tensor]:
    """Convert to the memory format in which convolutions are fastest; stores have (C, H, W)."""
    return [each.contiguous(memory_format=torch.channels_last) for each in features]


def load_inverter(models: Path, device: torch.device) -> Inverter:
    """The trained inverter saved in `models`, in evaluation mode on `device`.

    Raises:
        CheckpointError: the model is missing or damaged, or its weights do not fit its description.
        ParamsError, ShapeError: this version does not have, or cannot build, the described modules.
    """
    tensors, description = load_model(models)
    try:
        inverter = Inverter(Blueprint.parse(description["blueprint"]))
        inverter.load_state_dict(tensors)
    except PipelineError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the weights in {models} do not fit the model described there: {error}") from None
    return inverter.to(device).eval()
