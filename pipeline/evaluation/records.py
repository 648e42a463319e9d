"""Write numbers to files, rounded so that equal runs give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.core.files import whole_file, write_whole
from pipeline.core.params import Params
from pipeline.evaluation.bootstrap import summarise
from pipeline.evaluation.judge import title
from pipeline.evaluation.pictures import save_png
from pipeline.evaluation.refined import Refinement, trajectory_tables
from pipeline.evaluation.scoring import Columns, Energies
from pipeline.evaluation.spectrum import octaves
from pipeline.evaluation.subject import WEIGHT, Subject
from pipeline.metrics.table import all_metrics

DIGITS = 6  # significant digits of every number, slightly fewer than float32 has
FLOORS = ("mean_colour", "bicubic", "linear", "first_stage")
CONSISTENCY = ("cosine", "relative_error")
TINY = 1e-10  # -100 dB, so that an octave without energy or error has a finite value
BARS = {"psnr": 1.0, "ssim": 0.02}  # width of a histogram's bars, fixed so that histograms can be overlaid


def summary(
    params: Params,
    subject: Subject,
    columns: Columns,
    photographs: Sequence[str],
    crop: int,
    refinement: Refinement | None = None,
) -> dict[str, Any]:
    """The content of metrics.json: numbers at most three levels deep, null for a metric that was not computed.

    The only texts are the networks behind `features`, of the loss and of the metric, under `perceptual`.

    Args:
        photographs: the photograph of each test image.
        crop: edge of the images, pixels.
    """
    jpeg_bytes = float(columns["jpeg_bytes"].mean())
    weights = {name.removeprefix(WEIGHT): float(v.mean()) for name, v in columns.items() if name.startswith(WEIGHT)}
    scores, networks = _scores(params, columns, photographs), subject.distances
    values = {
        "images": len(columns["psnr"]),
        **scores,
        **({"perceptual": {name: title(network) for name, network in networks.items()}} if networks else {}),
        "floors": {name: _pair(columns, name) for name in FLOORS if f"{name}_psnr" in columns},
        "ceilings": {"jpeg": {**_pair(columns, "jpeg"), "bits_per_pixel": 8 * jpeg_bytes / crop**2}},
        **({} if refinement is None else {"refined": _refined(params, refinement, photographs)}),
        "consistency": {name: float(columns[name].mean()) for name in CONSISTENCY if name in columns} or None,
        **({"fusion": weights} if weights else {}),
        "decoder": {
            "parameters": sum(parameter.numel() for parameter in subject.inverter.parameters()),
            **{key: value for key, value in subject.description.items() if key == "best_epoch"},  # of a trained one
        },
        "features": {  # facts of the stored features, and the metric of the same name
            "bits_per_pixel": 8 * subject.feature_bytes / crop**2,
            "rounding": subject.rounding,
            **(scores.get("features") or {}),
        },
    }
    return rounded(values)


def write_tables(
    output: Path,
    image_ids: Sequence[str],
    photographs: Sequence[str],
    columns: Columns,
    energies: Energies,
    refinement: Refinement | None = None,
) -> None:
    """per_image.csv, and the data of the plots."""
    if refinement is not None:
        for metric in ("psnr", "ssim"):  # NaN for images that were not refined
            column = np.full(len(image_ids), np.nan)
            column[refinement.positions] = refinement.columns[metric]
            columns = columns | {f"refined_{metric}": column}
        mean, every = trajectory_tables(refinement, image_ids)
        write_csv(output / "plots" / "images" / "refinement.csv", mean)  # dvc plots shows this folder
        write_csv(output / "plots" / "refinement_per_image.csv", every)
        save_png(refinement.figure, output / "plots" / "images" / "refined.png")
    write_csv(output / "per_image.csv", {"image": image_ids, "photograph": photographs, **columns})
    for metric, width in BARS.items():
        centres, counts = histogram(columns[metric], width)
        write_csv(output / "plots" / f"{metric}_histogram.csv", {metric: centres, "images": counts})
    write_csv(output / "plots" / "octaves.csv", octave_table(energies))


def octave_table(energies: Energies) -> dict[str, Any]:
    """For each octave, coarse to fine: the surviving fraction of the image's energy (at least 0), and its SNR in dB."""
    share = energies.error / np.maximum(energies.image, TINY)
    return {
        "octave": [octave.name for octave in octaves(energies.edge)],
        "survives": np.maximum(1 - share, 0),
        "snr_db": -10 * np.log10(np.maximum(share, TINY)),
    }


def histogram(values: NDArray[np.float64], width: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres and counts of bars of `width` on a grid from 0, with one empty bar at each end."""
    bars = np.floor(values / width).astype(np.int64)
    first = bars.min() - 1
    counts = np.bincount(bars - first, minlength=bars.max() - first + 2)
    return (first + np.arange(len(counts)) + 0.5) * width, counts


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """One line for each entry; floats with `DIGITS` significant digits."""
    with whole_file(path) as part:
        pd.DataFrame(dict(columns)).to_csv(part, index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Strict JSON (no NaN, no Infinity), indented, in the order given."""
    write_whole(path, f"{json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode())


def rounded(values: Any) -> Any:
    """Round every float in nested dicts to `DIGITS` significant digits."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return float(f"{values:.{DIGITS}g}") if isinstance(values, float) else values


def _scores(params: Params, columns: Columns, photographs: Sequence[str]) -> dict[str, dict[str, float] | None]:
    """Mean, spread and interval of every metric; null if it was not computed, absent if no network judges it."""
    names = [name for name, metric in all_metrics().items() if name in columns or not metric.judged]
    own = {name: columns[name] for name in names if name in columns}
    spread = summarise(own, photographs, params.evaluate.bootstrap, params.seed)
    return {name: spread.get(name) for name in names}


def _refined(params: Params, refinement: Refinement, photographs: Sequence[str]) -> dict[str, Any]:
    """Scores of the refined images; `gain` is in dB over the decoder's images of the same photographs."""
    columns = refinement.columns
    means = {name: float(columns[name].mean()) for name in ("gain", *CONSISTENCY)}
    own = [photographs[position] for position in refinement.positions]
    return {"images": len(refinement.positions), **_scores(params, columns, own), **means}


def _pair(columns: Columns, name: str) -> dict[str, float]:
    return {metric: float(columns[f"{name}_{metric}"].mean()) for metric in ("psnr", "ssim")}
