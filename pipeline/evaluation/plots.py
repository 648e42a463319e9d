"""Figures as SVG text, drawn from the files of `train` and `evaluate`; equal files give equal text."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pipeline",  # without it, ids of clip paths are random
    "svg.fonttype": "path",  # the same letters on every machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DECODER, REFERENCE, SECOND = "#3b6ea5", "#888888", "#c2552d"
NOTE = "#444444"  # colour of small letters, contrast 9:1 on white
REFERENCES = (  # group and key in metrics.json, label, colour, dashes
    ("floors", "mean_colour", "mean colour", "#7a7a7a", ":"),
    ("floors", "bicubic", "bicubic thumbnail", "#c2552d", "--"),
    ("floors", "linear", "linear, closed form", "#2e7d32", "-."),
    ("ceilings", "jpeg", "JPEG, equal bytes", "#6a3d9a", (0, (6, 2))),
)


def histograms(per_image: pd.DataFrame, metrics: Mapping[str, Any]) -> str:
    """PSNR and SSIM of the test images, with the means of floors and ceilings as lines, named in a legend below."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        for place, metric, label in zip(axes, ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
            place.hist(per_image[metric], bins=min(40, max(8, len(per_image) // 10)), color=DECODER)
            place.set(xlabel=label, ylabel="images")
            place.yaxis.get_major_locator().set_params(integer=True)
            _references(place, metrics, metric)
        return _svg(figure)


def octaves(table: pd.DataFrame) -> str:
    """How much of each octave survives: 1 is all of its energy, 0 or less is none."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 2.8), layout="constrained")
        place = figure.subplots()
        shown = table["survives"].clip(lower=0)
        place.bar(table["octave"], shown, color=DECODER)
        for position, (height, value) in enumerate(zip(shown, table["snr_db"], strict=True)):
            place.annotate(f"{value:.1f} dB", (position, height), ha="center", va="bottom", color=NOTE)
        place.set(xlabel="spatial frequency, cycles per pixel", ylabel="share that survives", ylim=(0, 1.12))
        return _svg(figure)


def training(curves: pd.DataFrame) -> str:
    """Losses (logarithmic) and validation PSNR over the epochs."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for column, colour in (("train_total", REFERENCE), ("validation_total", DECODER)):
            left.plot(curves["epoch"], curves[column], color=colour, label=column.removesuffix("_total"))
        left.set(xlabel="epoch", ylabel="loss", yscale="log")
        left.legend(frameon=False)
        right.plot(curves["epoch"], curves["validation_psnr"], color=SECOND)
        right.set(xlabel="epoch", ylabel="validation PSNR, dB")
        return _svg(figure)


def refinement(table: pd.DataFrame) -> str:
    """Mean PSNR and mean feature error (logarithmic) after each evaluation of the known network."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(table["evaluation"], table["psnr"], color=SECOND)
        left.set(xlabel="evaluations of the network", ylabel="PSNR, dB")
        right.plot(table["evaluation"], table["feature_error"], color=DECODER)
        right.set(xlabel="evaluations of the network", ylabel="feature error", yscale="log")
        return _svg(figure)


def _references(place: Axes, metrics: Mapping[str, Any], metric: str) -> None:
    for group, name, label, colour, dashes in REFERENCES:
        value = metrics[group].get(name, {}).get(metric)
        if value is not None:
            place.axvline(value, color=colour, linestyle=dashes, linewidth=1.4, label=f"{label}: {value:.4g}")
    place.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, labelcolor=NOTE)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML header, so that it can stand inside HTML
