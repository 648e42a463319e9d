"""Pictures of the test split: strips of the best, median and worst, channel previews, and fixed samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.params import EvaluateParams
from pipeline.core.sources import Inputs
from pipeline.evaluation.baselines import thumbnail
from pipeline.evaluation.pictures import (
    ERROR_GAIN,
    Picture,
    channel_pictures,
    coloured,
    enlarged,
    save_png,
    sheet,
    to_picture,
)
from pipeline.evaluation.subject import Subject
from pipeline.evaluation.tiles import comparison_tiles
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import batched, spread
from pipeline.metrics.scores import capped_psnr
from pipeline.models.common.inverter import Inverter
from pipeline.stores.prepared import PreparedData

BICUBIC = "bicubic thumbnail"
CHANNELS, CHANNEL_COLUMNS, CHANNEL_EDGE = 24, 8, 112
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shown:
    """One test image with its reconstruction."""

    name: str
    psnr: float
    target: Tensor  # (3, H, W)
    prediction: Tensor  # (3, H, W)
    floors: dict[str, Tensor]  # label → (3, H, W)
    inputs: Inputs[Tensor]  # (C, h, w) each


def write_gallery(
    settings: EvaluateParams,
    data: PreparedData,
    cached: CachedFeatures,
    subject: Subject,
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    output: Path,
) -> list[str]:
    """Write plots/images/{best,median,worst,channels}.png, routing.png for a fusion with maps, and reconstructions/.

    Args:
        rows, scores: the test rows and their PSNR in dB.

    Returns:
        The image names of reconstructions/, spread evenly over the split: the same ones for every decoder.
    """
    chosen = extremes(scores, settings.strips)
    samples = spread(len(rows), settings.reconstructions)
    wanted = sorted({*samples, *(index for indices in chosen.values() for index in indices)})
    images = _reconstruct(data, cached, subject, rows, scores, wanted, settings.batch_size)
    shown = dict(zip(wanted, images, strict=True))
    for name, indices in chosen.items():
        save_png(_strips([shown[index] for index in indices]), output / "plots" / "images" / f"{name}.png")
    save_png(_channels(subject.inverter, shown[samples[0]]), output / "plots" / "images" / "channels.png")
    if routed := [row for index in samples[: settings.strips] if (row := _routing(subject.inverter, shown[index]))]:
        save_png(sheet(*zip(*routed, strict=True)), output / "plots" / "images" / "routing.png")
    for number, index in enumerate(samples):
        save_png(to_picture(shown[index].target), output / "reconstructions" / f"{number:02}_original.png")
        save_png(to_picture(shown[index].prediction), output / "reconstructions" / f"{number:02}_reconstruction.png")
    return [shown[index].name for index in samples]


def extremes(scores: NDArray[np.float64], count: int) -> dict[str, list[int]]:
    """Positions of the `count` best, middle and worst scores, each from better to worse."""
    order = np.argsort(-scores, kind="stable").tolist()
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    return {"best": order[:count], "median": order[middle : middle + count], "worst": order[len(order) - count :]}


@torch.inference_mode()
def _reconstruct(
    data: PreparedData,
    cached: CachedFeatures,
    subject: Subject,
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    wanted: Sequence[int],
    batch_size: int,
) -> Iterator[Shown]:
    positions = iter(wanted)
    for batch in cached.batches(batched(rows[np.array(wanted)], batch_size)):
        predictions = subject.inverter(batch.inputs)
        floors = {BICUBIC: thumbnail(batch.targets, subject.inverter.grid), **subject.floors(batch.inputs)}
        for place, row in enumerate(batch.rows):
            yield Shown(
                name=data.image_ids[data.image[row]],
                psnr=float(scores[next(positions)]),
                target=batch.targets[place].cpu(),
                prediction=predictions[place].cpu(),
                floors={name.replace("_", " "): images[place].cpu() for name, images in floors.items()},
                inputs=batch.inputs.at(place).to(CPU),
            )


def _strips(shown: Sequence[Shown]) -> Picture:
    rows, captions = [], []
    for each in shown:
        original, own, *maps = comparison_tiles(each.prediction, each.target)
        rows.append([original, own, *(enlarged(to_picture(image)) for image in each.floors.values()), *maps])
        floors = [
            f"{capped_psnr(image[None], each.target[None]).item():.2f} dB  {k}" for k, image in each.floors.items()
        ]
        captions.append(
            [each.name, f"{each.psnr:.2f} dB  this decoder", *floors, f"error × {ERROR_GAIN}", "local SSIM"]
        )
    return sheet(rows, captions)


def _channels(inverter: Inverter, shown: Shown) -> Picture:
    """The photograph, and rows of the channels with the largest variance of each source."""
    rows: list[list[Picture]] = [[enlarged(to_picture(shown.target)), enlarged(to_picture(shown.prediction))]]
    captions = [[shown.name, f"{shown.psnr:.2f} dB"]]
    for source, features in zip(inverter.inputs, shown.inputs, strict=True):
        chosen, pictures = channel_pictures(features, CHANNELS, CHANNEL_EDGE)
        for start in range(0, len(pictures), CHANNEL_COLUMNS):
            rows.append(pictures[start : start + CHANNEL_COLUMNS])
            captions.append([f"{source} {number}" for number in chosen[start : start + CHANNEL_COLUMNS]])
    return sheet(rows, captions)


@torch.inference_mode()
def _routing(inverter: Inverter, shown: Shown) -> tuple[list[Picture], list[str]] | None:
    """The photograph, and the weight of each source at each position, from 0 (dark) to the largest of all (yellow).

    None if the fusion weighs sources alike at all positions.
    """
    inputs = shown.inputs.map(lambda each: each[None].to(inverter.device))
    maps = None if inverter.fusion is None else inverter.fusion.weight_maps(inverter.standardised(inputs))
    if maps is None:
        return None
    weights = maps[0].float().cpu().numpy()  # (sources, h, w)
    photograph = enlarged(to_picture(shown.target), CHANNEL_EDGE)
    tiles = [enlarged(coloured(each / weights.max()), max(photograph.shape)) for each in weights]
    one = len({source.backbone for source in inverter.sources}) == 1
    names = [source.layer if one else str(source) for source in inverter.sources]
    captions = [f"{name} {each.mean():.0%}" for name, each in zip(names, weights, strict=True)]
    return [photograph, *tiles], [shown.name, *captions]
