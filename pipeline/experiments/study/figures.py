"""Figures of a study as SVG text; equal tables give equal text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from pipeline.core.errors import ParamsError
from pipeline.core.sources import Source
from pipeline.evaluation.plots import STYLE

CELL = (0.95, 0.42)  # width and height of a cell, inches
DARK = 0.45  # fraction of the range below which cells are dark and their text is white


def heat_map(table: pd.DataFrame, unit: str, title: str) -> str:
    """Variants (rows) by sources (columns), with the number in each cell; a cell without a result is blank."""
    rows, columns = table.shape
    values = table.to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    with matplotlib.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(2.5 + CELL[0] * columns, 1.6 + CELL[1] * rows), layout="constrained")
        place = figure.subplots()
        drawn = place.imshow(values, cmap=colormaps["cividis"], aspect="auto")
        place.set_xticks(range(columns), labels=list(table.columns), rotation=35, ha="right", rotation_mode="anchor")
        place.set_yticks(range(rows), labels=list(table.index))
        place.tick_params(length=0)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = high > low and (value - low) / (high - low) < DARK
                place.text(
                    column, row, f"{value:#.4g}", ha="center", va="center", size=8, color="white" if dark else "black"
                )
        figure.colorbar(drawn, ax=place, label=unit)
        figure.suptitle(title, fontsize="medium")
        return svg(figure)


def depth_curves(table: pd.DataFrame, depths: Mapping[str, Sequence[str]], unit: str, title: str) -> str | None:
    """One panel for each network with several layers, one line for each variant; None if there is no such network."""
    panels = by_network(table.columns, depths)
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.5, 3 * len(panels)), 3), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, (network, layers) in zip(axes, panels.items(), strict=True):
            for variant, values in table.iterrows():
                place.plot(layers, [values[f"{network}.{layer}"] for layer in layers], marker="o", label=variant)
            place.set(title=network, xlabel="layer")
        axes[0].set_ylabel(unit)
        figure.suptitle(title, fontsize="medium")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
        return svg(figure)


def by_network(columns: Sequence[str], depths: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The layers in `columns`, shallow to deep, of each network that has at least two there."""
    found: dict[str, set[str]] = {}
    for column in columns:
        try:
            source = Source.parse(column)
        except ParamsError:  # an ensemble
            continue
        if source.layer in depths.get(source.backbone, ()):
            found.setdefault(source.backbone, set()).add(source.layer)
    return {
        network: [layer for layer in depths[network] if layer in layers]
        for network, layers in found.items()
        if len(layers) > 1
    }


def svg(figure: Figure) -> str:
    """A figure as SVG text, without the date and the program that drew it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
