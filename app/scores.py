"""What was scored in a checkout, as HTML and curves: the table of all experiments, and some of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd

from app.html import data_uri, render
from app.laboratory import Laboratory
from app.pages.experiments import CURVES, MOST
from app.uploads import shown
from pipeline.core.errors import DataError
from pipeline.evaluation.pictures import Picture, enlarged
from pipeline.experiments.comparison import (
    gain_notes,
    lead_notes,
    leaderboard,
    protocol_notes,
    same_photographs,
    varied,
)
from pipeline.experiments.found import Experiment, read_all
from pipeline.metrics.table import METRICS, Metric

FEWEST = 2  # experiments side by side
METRIC = "psnr"  # by which experiments side by side are compared
SHOWN = ("psnr", "ssim", "lpips")  # metrics of the table
NUMBER = "number"  # class of a column that is sorted by value, and from the highest down at first


_READ: WeakKeyDictionary[Laboratory, tuple[list[Experiment], list[str]]] = WeakKeyDictionary()
_READING = Lock()


def scored(laboratory: Laboratory, again: bool = False) -> tuple[list[Experiment], list[str]]:
    """What `python -m stages compare` finds, read once, or `again`; and a sentence for each that cannot be read.

    Raises:
        DataError: there is nothing.
    """
    with _READING:
        if again or laboratory not in _READ:
            _READ[laboratory] = read_all(laboratory.fetched, laboratory.root)
        return _READ[laboratory]


def model_of(name: str) -> str:
    """The model of an experiment: equal ones stand in the table together, as `workspace, HEAD`."""
    return name.partition(", ")[0]


def named(laboratory: Laboratory, names: Sequence[str]) -> list[Experiment]:
    """Two to four experiments, by their names. Raises DataError: another number, or there is none of a name."""
    known = {each.name: each for each in scored(laboratory)[0]}
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"there is no experiment '{shown(unknown[0])}' here; choose among those of the table")
    if not FEWEST <= len(names) <= MOST:
        raise DataError(f"{len(names)} experiments are chosen; choose {FEWEST} to {MOST} to see them side by side")
    return [known[name] for name in names]


def records(laboratory: Laboratory) -> list[dict[str, Any]]:
    """The leaderboard by PSNR, a dictionary for each experiment; None where something is not known."""
    board = leaderboard(scored(laboratory)[0], "psnr")
    return board.astype(object).where(board.notna(), None).to_dict("records")


def table(experiments: Sequence[Experiment]) -> str:
    """A row of HTML for each experiment, best PSNR first: the settings that differ, scores with intervals, size.

    A click on a head sorts; intervals are also bars, on the scale of their column.
    """
    order = sorted(experiments, key=lambda each: -each.metrics["psnr"]["mean"])
    settings = varied(order)
    metrics = {name: METRICS.get(name) for name in SHOWN if any(each.metrics.get(name) for each in order)}
    columns = [
        ("experiment", ""),
        *((metric.title, NUMBER) for metric in metrics.values()),
        ("parameters", NUMBER),
        *((key, "") for key in settings),
    ]
    cells = [_scores([each.metrics.get(name) for each in order], metric) for name, metric in metrics.items()]
    cells.append([_number(each.metrics["decoder"]["parameters"], "{:,}".format) for each in order])
    cells += [[_setting(value) for value in settings[key]] for key in settings]
    rows = [{"name": each.name, "cells": own} for each, own in zip(order, zip(*cells, strict=True), strict=True)]
    return render("experiments.html", columns=columns, rows=rows, sorted=METRICS.get("psnr").title)


def strips(experiments: Sequence[Experiment]) -> str:
    """The photographs that all of these saved, as HTML: original, then each reconstruction with its PSNR."""
    alike, images = same_photographs(experiments)
    rows = [
        [
            _tile(alike[0].picture(image, "original"), image, image),
            *(
                _tile(each.picture(image, "reconstruction"), f"{each.per_image.loc[image, 'psnr']:.2f} dB", each.name)
                for each in alike
            ),
        ]
        for image in images
    ]
    return render("strips.html", names=[each.name for each in alike], rows=rows)


def differences(experiments: Sequence[Experiment]) -> str:
    """What differs between these experiments, as HTML: settings, leads with their p, and why some are no comparison."""
    settings = varied(experiments)
    board = leaderboard(experiments, METRIC)
    notes = [
        f"{row['experiment']} is ahead of {following}: {row['lead']} (PSNR, dB)"
        for row, following in zip(board.to_dict("records"), board["experiment"][1:], strict=False)
        if row["lead"]
    ]
    notes += [*lead_notes(board), *gain_notes(experiments), *protocol_notes(experiments, METRIC)]
    return render("differences.html", names=[*settings.index], rows=[*settings.items()], notes=notes)


def curves(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Columns experiment, epoch, and what training wrote of each epoch; experiments without curves are left out."""
    found = [each.curves.assign(experiment=each.name) for each in experiments if each.curves is not None]
    return pd.concat(found) if found else pd.DataFrame(columns=["experiment", "epoch", *CURVES])


def _setting(value: str) -> dict[str, Any]:
    """Of `package weights (efficientnet-lite0 0.1.0)` what stands before the bracket; all of it as a title."""
    return {"kind": "", "value": value, "text": value.partition(" (")[0], "title": value}


def _number(value: float, shown: Callable[[float], str]) -> dict[str, Any]:
    return {"kind": NUMBER, "value": value, "text": shown(value)}


def _scores(values: Sequence[Mapping[str, float] | None], metric: Metric) -> list[dict[str, Any]]:
    """Cells of a metric's column; where an interval is, its ends and mean in % of the column's whole range."""
    known = [value for value in values if value]
    low, high = (pick(value.get(end, value["mean"]) for value in known) for end, pick in (("low", min), ("high", max)))
    cells: list[dict[str, Any]] = []
    for value in values:
        if value is None:
            cells.append({"kind": NUMBER, "value": "", "text": "–"})
            continue
        cell = _number(value["mean"], metric.shown)
        if "low" in value and high > low:
            cell |= {end: round(100 * (value[end] - low) / (high - low), 2) for end in ("low", "mean", "high")}
            cell["interval"] = f"[{metric.shown(value['low'])}, {metric.shown(value['high'])}]"
        cells.append(cell)
    return cells


def _tile(picture: Picture, caption: str, name: str) -> dict[str, str]:
    return {"source": data_uri(enlarged(picture)), "caption": caption, "alt": f"{name}: {caption}"}
