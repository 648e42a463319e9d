"""From cached features to an image: standardise, fuse, decode; optionally on top of a linear read-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import CheckpointError, ShapeError
from pipeline.core.params import NONE, Params
from pipeline.core.section import parse_section
from pipeline.core.sources import FeatureShape, ImageSize, Source
from pipeline.models.common.checkpoint import load_model
from pipeline.models.common.decoder import Decoder, build_decoder
from pipeline.models.common.fusion import Fusion, build_fusion
from pipeline.models.common.linear import Linear, kernel_alone
from pipeline.stores.manifest import varying

LINEAR = "linear"
REFINED_INPUT = "refined image"
RGB = 3  # channels of an image


@dataclass(frozen=True)
class Blueprint:
    """Everything that fixes an inverter's modules and shapes; plain values, so that it is saved beside the weights.

    `linear` holds the options of a linear read-out under the decoder (warm start), or None. `two_stage`: behind the
    one source comes a refined image. `kernels`: the linear part's neighbourhood of each input; none in older models,
    whose options gave one for all channels together. `apart`: places of the sources, all of one grid, that the linear
    part reads on that grid, too, because there they alone say more than all on the largest.
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
        """The inverter params.yaml asks for. Sources are sorted: their order in params.yaml changes nothing."""
        sources = sorted(shapes)
        warm = params.train.warm_start == LINEAR and params.decoder != LINEAR
        two_stage = params.two_stage.refine != NONE
        widths = [shapes[source].channels for source in sources]
        if two_stage:  # the pixels under a feature
            widths.append(RGB * _block([shapes[source] for source in sources], image) ** 2)
        linear = dict(params.decoders[LINEAR])
        kernel = linear.pop("kernel", None)  # the saved model says what was used instead
        kernels = tuple(kernel or kernel_alone(width) for width in widths)
        return cls(
            sources=tuple(map(str, sources)),
            shapes=tuple((shapes[s].channels, shapes[s].height, shapes[s].width) for s in sources),
            image=(image.height, image.width),
            decoder=params.decoder,
            decoder_options=linear if params.decoder == LINEAR else params.decoders[params.decoder],
            fusion=params.fusion,
            fusion_options=params.fusions[params.fusion],
            linear=linear if warm else None,
            two_stage=two_stage,
            kernels=kernels if warm or params.decoder == LINEAR else (),
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Blueprint:
        """The inverse of `asdict`, after a trip through JSON (lists become tuples again)."""
        shapes = tuple((c, h, w) for c, h, w in values["shapes"])
        height, width = values["image"]
        later = {name: tuple(values.get(name, ())) for name in ("kernels", "apart")}  # older models lack them
        return cls(
            **{**values, **later, "sources": tuple(values["sources"]), "shapes": shapes, "image": (height, width)}
        )

    def plain(self) -> dict[str, Any]:
        return asdict(self)


class Standardise(nn.Module):
    """Each channel to zero mean and unit variance, by the training rows' statistics from the store's manifest.

    The mean is kept in float64: far from zero a float32 one is off by more than a small channel varies.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    def fit(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Take the statistics over; a channel that never varies becomes zero."""
        alive = torch.from_numpy(varying(mean.double().numpy(), std.double().numpy()))
        self.mean.copy_(mean[:, None, None])
        self.scale.copy_(torch.where(alive, std.reciprocal(), 0)[:, None, None])

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        nearest = self.mean.float()
        rest = (self.mean - nearest).float()
        return torch.addcmul(-rest * self.scale, features - nearest, self.scale)


class Inverter(nn.Module):
    """Features of one or several sources to RGB (B, 3, H, W).

    In two stages there is one source, and behind its features comes an image (B, 3, H, W) that was
    refined through the known network. Its pixels under each feature are further channels of that feature.

    In evaluation the image lies in [0, 1]. In training the sum of a linear part and a decoder is left
    unclamped, because a clamp has no gradient outside.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        """Raises ShapeError when the decoder or the fusion cannot work at these shapes."""
        super().__init__()
        self.blueprint = blueprint
        shapes = [FeatureShape(*shape) for shape in blueprint.shapes]
        image = ImageSize(*blueprint.image)
        channels = [shape.channels for shape in shapes] + [RGB] * blueprint.two_stage
        self.standardise = nn.ModuleList(map(Standardise, channels))
        self.block = _block(shapes, image) if blueprint.two_stage else 0
        widths = [shape.channels for shape in shapes] + [RGB * self.block**2] * blueprint.two_stage
        if blueprint.two_stage:
            shapes = [FeatureShape(shapes[0].channels + RGB * self.block**2, shapes[0].height, shapes[0].width)]
        self.grid = (max(s.height for s in shapes), max(s.width for s in shapes))
        stacked = FeatureShape(sum(s.channels for s in shapes), *self.grid)
        self.linear = _linear(stacked, image, blueprint, widths)
        self.apart = nn.ModuleList([self._reading(blueprint.apart)] if blueprint.apart else [])
        self.fusion: Fusion | None = None
        self.decoder: Decoder | None = None
        if blueprint.decoder != LINEAR:
            self.fusion = build_fusion(blueprint.fusion, blueprint.fusion_options, shapes)
            self.decoder = build_decoder(blueprint.decoder, blueprint.decoder_options, self.fusion.shape, image)
            if self.linear is not None:
                self.decoder.zero_output()

    def _reading(self, places: Sequence[int]) -> Linear:
        """A linear part for some sources of one grid. Raises ShapeError: that is no grid of whole blocks of pixels."""
        shapes = [FeatureShape(*self.blueprint.shapes[place]) for place in places]
        shape = FeatureShape(sum(each.channels for each in shapes), shapes[0].height, shapes[0].width)
        parts = tuple(
            (each.channels, self.blueprint.kernels[place]) for place, each in zip(places, shapes, strict=True)
        )
        return Linear(shape, ImageSize(*self.blueprint.image), Linear.Options(), parts)

    def coarser(self) -> list[tuple[tuple[int, ...], Linear]]:
        """What the linear part could read apart: the sources of each grid that is not `grid`, and how."""
        grids: dict[tuple[int, int], list[int]] = {}
        for place, (_, height, width) in enumerate(self.blueprint.shapes):
            grids.setdefault((height, width), []).append(place)
        found = []
        for places in (tuple(each) for grid, each in grids.items() if grid != self.grid):
            with suppress(ShapeError):  # alone these sources have no linear decoder, so there is none to fall behind
                found.append((places, self._reading(places).to(self.device)))
        return found

    def read_apart(self, places: Sequence[int], reading: Linear) -> None:
        """Make one of `coarser` a piece of the linear part."""
        self.blueprint = replace(self.blueprint, apart=tuple(places))
        self.apart = nn.ModuleList([reading])

    @property
    def closed_form(self) -> nn.Module | None:
        """All that is solved and not trained."""
        return nn.ModuleList([self.linear, *self.apart]) if self.linear is not None and self.apart else self.linear

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @property
    def sources(self) -> tuple[Source, ...]:
        """In the order `forward` takes their features."""
        return tuple(map(Source.parse, self.blueprint.sources))

    @property
    def inputs(self) -> tuple[str, ...]:
        """What `forward` takes, in order: the sources and, in two stages, the refined image."""
        return (*self.blueprint.sources, *([REFINED_INPUT] * self.blueprint.two_stage))

    def fit_statistics(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take over mean and standard deviation, each (C,), of everything in `inputs`."""
        for standardise, (mean, std) in zip(self.standardise, statistics, strict=True):
            assert isinstance(standardise, Standardise)
            standardise.fit(mean, std)

    def standardised(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        inputs = tuple(one(each) for one, each in zip(self.standardise, features, strict=True))
        if not self.blueprint.two_stage:
            return inputs
        source, image = inputs
        return (torch.cat([source, F.pixel_unshuffle(image, self.block)], dim=1),)

    def stack(self, standardised: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """All sources on the largest grid (bilinear), channels concatenated: the input of the linear part."""
        on_grid = [x if x.shape[-2:] == self.grid else _resized(x, self.grid) for x in standardised]
        return on_grid[0] if len(on_grid) == 1 else torch.cat(on_grid, dim=1)

    def forward(self, features: Sequence[Tensor]) -> Float[Tensor, "b 3 y x"]:
        inputs = self.standardised(features)
        if self.decoder is None or self.fusion is None:
            image = self._linear_part(inputs)
        elif self.linear is None:
            image = self.decoder(self.fusion(_channels_last(inputs)))
        else:
            image = self._linear_part(inputs) + self.decoder.synthesize(self.fusion(_channels_last(inputs)))
        return image if self.training else image.clamp(0, 1)

    def _linear_part(self, standardised: Sequence[Tensor]) -> Float[Tensor, "b 3 y x"]:
        """In float32 also under autocast.

        The rounding of bfloat16 alone is an error of about 60 dB in the image: the floor of a good read-out, and
        training would not start at the closed-form solution.
        """
        assert self.linear is not None
        with torch.autocast(self.device.type, enabled=False):
            image = self.linear.synthesize(self.stack(standardised))
            for reading in self.apart:
                assert isinstance(reading, Linear)
                image = image + reading.synthesize(joined(standardised, self.blueprint.apart))
            return image


def joined(standardised: Sequence[Tensor], places: Sequence[int]) -> Float[Tensor, "b c h w"]:
    """The channels of some sources of one grid."""
    return torch.cat([standardised[place] for place in places], dim=1)


def _resized(x: Tensor, grid: tuple[int, int]) -> Tensor:
    # one edge may shrink where no grid is the largest in both: bilinear alone would skip over features
    shrinks = any(own > new for own, new in zip(x.shape[-2:], grid, strict=True))
    return F.interpolate(x, grid, mode="bilinear", align_corners=False, antialias=shrinks)


def _channels_last(features: Sequence[Tensor]) -> list[Tensor]:
    """The order in memory in which convolutions are fastest; stores keep (C, H, W)."""
    return [each.contiguous(memory_format=torch.channels_last) for each in features]


def _block(shapes: Sequence[FeatureShape], image: ImageSize) -> int:
    """Edge of the block of pixels under one feature. Raises ShapeError: not a square of whole pixels."""
    (shape,) = shapes
    ratios = {image.height / shape.height, image.width / shape.width}
    ratio = ratios.pop()
    if ratios or ratio % 1:
        raise ShapeError(
            f"two_stage.refine: features {shape} stand for no square blocks of whole pixels of a {image} image; choose "
            "another layer, another prepare.crop, or two_stage.refine: none"
        )
    return int(ratio)


def _linear(shape: FeatureShape, image: ImageSize, blueprint: Blueprint, widths: Sequence[int]) -> Linear | None:
    options = blueprint.decoder_options if blueprint.decoder == LINEAR else blueprint.linear
    if options is None:
        return None
    parts = tuple(zip(widths, blueprint.kernels, strict=True)) if blueprint.kernels else ()
    return Linear(shape, image, parse_section(Linear.Options, options, f"decoders.{LINEAR}"), parts)


def load_inverter(models: Path, device: torch.device) -> Inverter:
    """The trained inverter saved in `models`, in evaluation mode on `device`.

    Raises:
        CheckpointError: no model there, a damaged one, or weights that do not fit their description.
    """
    tensors, description = load_model(models)
    try:
        inverter = Inverter(Blueprint.parse(description["blueprint"]))
        inverter.load_state_dict(tensors)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the weights in {models} do not fit the model described there: {error}") from None
    return inverter.to(device).eval()
