"""Reconstruct any photograph through a frozen network and a trained decoder, as a picture with its scores."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.core.errors import CheckpointError, DataError
from pipeline.core.files import printable, whole_file
from pipeline.core.params import Params, PrepareParams
from pipeline.core.progress import counted, progress
from pipeline.core.sources import Inputs
from pipeline.data.photographs import centre_crops, decode_files
from pipeline.data.preparation.decoding import Decoded
from pipeline.data.preparation.listing import photographs_in
from pipeline.evaluation.pictures import ERROR_GAIN, require_folder, save_png, sheet, to_picture
from pipeline.evaluation.tiles import comparison_tiles
from pipeline.experiments.first_stage import FirstStage, load_first_stage
from pipeline.metrics.alexnet import lpips_available
from pipeline.metrics.scores import score
from pipeline.metrics.similarity import Lpips, load_lpips
from pipeline.models.common.checkpoint import load_model
from pipeline.models.common.inverter import Inverter, load_inverter
from pipeline.refinement.networks import Networks, network_title, same_network
from pipeline.stores.encoding import as_stored

STRETCHED = 2.0  # longer over shorter edge from which the output mentions the squashing
SCORES, RECONSTRUCTION = "scores.csv", "_reconstruction"


@dataclass(frozen=True)
class Encoder:
    """A trained decoder with its frozen networks, the rules of cropping, and LPIPS.

    Attributes:
        stored: the stored type of each source's features, to which features are rounded here too.
        perceptual: None without AlexNet's weights.
        first_stage: in two stages, computes the refined image from the features; else None.
    """

    inverter: Inverter
    networks: Networks
    rules: PrepareParams
    stored: tuple[str, ...]
    perceptual: Lpips | None
    first_stage: FirstStage | None

    @property
    def bytes(self) -> int:
        """The memory of the decoder and its networks."""
        modules = [self.inverter, *self.networks.backbones.values()]
        if self.first_stage is not None:
            modules.append(self.first_stage.start)
        tensors = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (B, 3, crop, crop), RGB in [0, 1] → their reconstructions from the inverted layers."""
        return self.decode(self.features(images))

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The features (B, C, h, w) of each source, rounded as in its store."""
        pairs = zip(self.networks(images), self.stored, strict=True)
        return tuple(as_stored(each, dtype) for each, dtype in pairs)

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """(B, C, h, w) of each source → (B, 3, crop, crop) RGB in [0, 1]."""
        image = None if self.first_stage is None else self.first_stage(*features)
        with torch.inference_mode():
            return self.inverter(Inputs(features, image))


@dataclass
class Result:
    """Scores of the good photographs, and the bad ones with the reason.

    Attributes:
        scores: file, picture, stretch (longer over shorter edge if squashed, else 1) and metrics of each.
        bad: file and reason of each.
    """

    scores: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[Path, str]] = field(default_factory=list)


def reconstruct(inputs: Sequence[str], models: Path, params: Params, output: Path, device: torch.device) -> Result:
    """Reconstruct every photograph of `inputs` (files, folders, patterns).

    For each, `output` gets `<name>.png` (original, reconstruction, error, local SSIM) and
    `<name>_reconstruction.png`, and one scores.csv for all. Good photographs are finished even if others are bad, and
    no picture overwrites a photograph of `inputs`.

    Raises:
        DataError: there is no photograph, none is good, `output` is a file, or, unless prepare.on_bad_image is skip,
            some are bad (all are listed).
        CheckpointError: the model is missing, or made with other weights than params.yaml gives.
    """
    require_folder(output)
    photographs = find_photographs(inputs)
    encoder = load_encoder(models, params, device)
    result = Result()
    names = _free_names(photographs, output)
    size = params.evaluate.batch_size

    decoded = decode_files(photographs, encoder.rules, ahead=2 * size)
    try:
        with progress("reconstruct", len(photographs), "photographs") as advance:
            for start in range(0, len(photographs), size):
                part = slice(start, start + size)
                _reconstruct_batch(photographs[part], names[part], list(islice(decoded, size)), encoder, output, result)
                advance(len(photographs[part]))
    finally:  # after an error too, finished pictures have their scores
        if result.scores:
            with whole_file(output / SCORES) as table:
                pd.DataFrame(result.scores).to_csv(table, index=False, float_format="%.6g", lineterminator="\n")
    if result.bad and (params.prepare.on_bad_image == "stop" or not result.scores):
        raise DataError(_bad_files(result, len(photographs), output))
    return result


def find_photographs(inputs: Sequence[str]) -> list[Path]:
    """The photographs of files, folders (all photographs below them) and patterns (`*`, `**`, `?`).

    Raises:
        DataError: an input names no file.
    """
    found: dict[Path, None] = {}
    for text in map(os.path.expanduser, inputs):  # the shell does not expand a quoted ~
        path = Path(text)
        if path.is_dir():
            found |= dict.fromkeys(photograph.path for photograph in photographs_in(path, path, text))
        elif path.is_file():
            found[path] = None
        else:
            matches = sorted(path for path in map(Path, glob.iglob(text, recursive=True)) if path.is_file())
            if not matches:
                raise DataError(
                    f"'{text}' is no file or folder, and no file matches it; give photographs to reconstruct"
                )
            found |= dict.fromkeys(matches)
    return list(found)


def load_encoder(
    models: Path,
    params: Params,
    device: torch.device,
    perceptual: Lpips | None = None,
    open_networks: Callable[..., Networks] = Networks,
) -> Encoder:
    """Load the decoder in `models` and its networks, which must be those of its training.

    Args:
        perceptual: LPIPS, if it is loaded already. open_networks: called instead of `Networks`, with its arguments.

    Raises:
        CheckpointError: the model is missing, does not record how its features were stored, or its networks have other
            weights now. WeightsError: weights are missing.
    """
    inverter = load_inverter(models, device)
    description = load_model(models)[1]
    for source in inverter.sources:
        if source.backbone not in params.backbones:
            raise CheckpointError(
                f"{models} inverts {source.backbone}, which params.yaml lacks; add it under backbones"
            )
    if "stored" not in description:
        raise CheckpointError(
            f"{models} was saved by an older version, which did not record how features were stored; train again"
        )
    stored = [description["stored"][str(source)] for source in inverter.sources]
    networks = open_networks(params, inverter.sources, [each["precision"] for each in stored], device)
    for name, backbone in networks.backbones.items():
        trained, now = description["backbones"][name], backbone.describe()
        if not same_network(trained, now):
            raise CheckpointError(
                f"{models} was trained behind {network_title(trained)}, params.yaml now gives {network_title(now)}; "
                f"set backbones.{name} as it was, or train again"
            )
    geometry = {key: description["prepare"][key] for key in ("resize", "interpolation", "size", "crop")}
    if perceptual is None and lpips_available() is None:
        perceptual = load_lpips().to(device)
    first_stage = None
    if inverter.blueprint.two_stage:
        first_stage = load_first_stage(description["first_stage"], networks, models, geometry["crop"], device)
    # a model without the key was trained by a version that ignored colour profiles
    profile = {"colour_profile": description["prepare"].get("colour_profile", "ignore")}
    rules = params.prepare.model_copy(update=geometry | profile)
    return Encoder(inverter, networks, rules, tuple(each["dtype"] for each in stored), perceptual, first_stage)


def _reconstruct_batch(
    paths: Sequence[Path],
    names: Sequence[str],
    decoded: Sequence[Decoded],
    encoder: Encoder,
    output: Path,
    result: Result,
) -> None:
    rules = encoder.rules
    result.bad += [(path, image.reason) for path, image in zip(paths, decoded, strict=True) if image.reason]
    good = [(path, name, image) for path, name, image in zip(paths, names, decoded, strict=True) if not image.reason]
    if not good:
        return
    originals = centre_crops([image for *_, image in good], rules).to(encoder.inverter.device)
    reconstructions = encoder.reconstruct(originals)
    scores = {
        metric: values.tolist() for metric, values in score(reconstructions, originals, encoder.perceptual).items()
    }
    for place, (path, name, image) in enumerate(good):
        own = {metric: values[place] for metric, values in scores.items()}
        pair = reconstructions[place].cpu(), originals[place].cpu()
        shown = [printable(path.name), f"{own['psnr']:.2f} dB  SSIM {own['ssim']:.3f}", f"error × {ERROR_GAIN}"]
        save_png(sheet([comparison_tiles(*pair)], [[*shown, "local SSIM"]]), output / f"{name}.png")
        save_png(to_picture(pair[0]), output / f"{name}{RECONSTRUCTION}.png")
        stretch = max(image.shape) / min(image.shape) if rules.resize == "squash" else 1.0
        result.scores.append({"file": printable(path), "picture": f"{name}.png", "stretch": stretch, **own})


def _free_names(paths: Sequence[Path], output: Path) -> list[str]:
    """File names without endings, numbered if two pictures would share a name or one would replace a photograph."""
    taken = {path.resolve() for path in paths}
    names = []
    for path in paths:
        stem = printable(path.stem)
        candidates = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        name = next(name for name in candidates if taken.isdisjoint(_pictures(output, name)))
        taken |= _pictures(output, name)
        names.append(name)
    return names


def _pictures(output: Path, name: str) -> set[Path]:
    """The two files that are written for a photograph."""
    return {(output / f"{each}.png").resolve() for each in (name, f"{name}{RECONSTRUCTION}")}


def _bad_files(result: Result, total: int, output: Path) -> str:
    lines = "".join(f"\n  {printable(path)}: {reason}" for path, reason in result.bad)
    if not result.scores:  # skipping them would leave nothing
        return f"{total} of {counted(total, 'photograph')} cannot be used; repair these, or give others:{lines}"
    return (
        f"{len(result.bad)} of {total} photographs cannot be used (the good ones are in {output}); "
        f"repair or leave them out, or --set prepare.on_bad_image=skip:{lines}"
    )
