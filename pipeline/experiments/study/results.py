"""Write a finished study into one folder: leaderboard, table by variant and source, curves over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.core.files import whole_file, write_whole
from pipeline.core.params import Params
from pipeline.evaluation.pictures import save_png
from pipeline.evaluation.report import weights
from pipeline.experiments.comparison import gain_notes, lead_notes, leaderboard, markdown, protocol_notes
from pipeline.experiments.found import Experiment, opened
from pipeline.experiments.study.depth import best_by_layer, depth_markdown, depth_picture
from pipeline.experiments.study.figures import depth_curves, heat_map
from pipeline.experiments.study.grid import Configuration
from pipeline.experiments.study.held import by_depth, held, held_markdown
from pipeline.metrics.table import METRICS

DEPTHS = "depths.svg"


def write_results(
    configurations: Sequence[Configuration], params: Params, output: Path, metric: str, notes: Sequence[str] = ()
) -> str:
    """Write leaderboard.md, leaderboard.csv, table.csv and heat_map.svg into `output`.

    If a network has several layers, depths.svg is added, and depth_NETWORK.md and .png with its layers' best
    experiments in numbers and in pictures. If experiments refined images, held.md, held.csv and held.svg are added.

    Args:
        params: give the order of each network's layers.
        notes: sentences below the leaderboard.

    Returns:
        The leaderboard as Markdown.

    Raises:
        DataError: an experiment cannot be read, or has no `metric`.
    """
    with opened([each.name for each in configurations]) as experiments:
        table = leaderboard(experiments, metric)
        remarks = [*lead_notes(table), *gain_notes(experiments), *protocol_notes(experiments, metric), *notes]
        # weights and data behind all numbers of a figure: `random weights (seed 0) · sample`
        behind = (f"{weights(each.protocol)} · {each.protocol['data']['dataset']}" for each in experiments)
        title = "; ".join(dict.fromkeys(behind))
        named = {each.name: each for each in experiments}
        refined = held(configurations, named)
        depths = {name: entry.layers for name, entry in params.backbones.items()}
        _write_depths(best_by_layer(configurations, named, depths), output)
    scores = pivot(table, configurations, metric)
    for name, frame, index in (("leaderboard.csv", table, False), ("table.csv", scores, True)):
        with whole_file(output / name) as part:
            frame.to_csv(part, index=index, float_format="%.6g", lineterminator="\n")
    write_whole(output / "heat_map.svg", heat_map(scores, METRICS.get(metric).title, title).encode())
    _write_or_remove(output / DEPTHS, depth_curves(scores, depths, METRICS.get(metric).title, title))
    texts: dict[str, str | None] = dict.fromkeys(("held.csv", "held.md", "held.svg"))
    if len(refined):
        texts["held.csv"] = refined.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        texts["held.md"] = held_markdown(refined) + "\n"
        texts["held.svg"] = depth_curves(by_depth(refined), depths, METRICS.get("psnr").title, title)
    for name, content in texts.items():
        _write_or_remove(output / name, content)
    text = "\n".join([markdown(table, metric), *(f"\n{remark}" for remark in remarks)]) + "\n"
    write_whole(output / "leaderboard.md", text.encode())
    return text


def _write_depths(networks: Mapping[str, Mapping[str, Experiment]], output: Path) -> None:
    for earlier in output.glob("depth_*"):
        earlier.unlink()
    for network, layers in networks.items():
        write_whole(output / f"depth_{network}.md", f"{depth_markdown(layers)}\n".encode())
        if (picture := depth_picture(layers)) is not None:
            save_png(picture, output / f"depth_{network}.png")


def _write_or_remove(path: Path, text: str | None) -> None:
    """Write `text`, or remove an earlier run's file if there is none."""
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_whole(path, text.encode())


def pivot(table: pd.DataFrame, configurations: Sequence[Configuration], metric: str) -> pd.DataFrame:
    """Means of `metric`: a row for each variant and a column for each source, in the order of the study's file."""
    means = dict(zip(table["experiment"], table[metric], strict=True))
    variants = list(dict.fromkeys(each.variant for each in configurations))
    sources = list(dict.fromkeys(each.source for each in configurations))
    found = pd.DataFrame(index=pd.Index(variants, name="variant"), columns=sources, dtype=float)
    for each in configurations:
        found.loc[each.variant, each.source] = means[each.name]
    return found
