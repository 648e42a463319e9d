"""The contribution of each layer to what an inverter of many layers gets back: alone, left out, added, and weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from pipeline.core.errors import ParamsError
from pipeline.core.files import whole_file, write_whole
from pipeline.core.params import NONE, Params
from pipeline.core.progress import counted
from pipeline.core.sources import Source
from pipeline.core.tables import markdown_table
from pipeline.evaluation.plots import STYLE
from pipeline.evaluation.report import weights
from pipeline.experiments.comparison import Lead, lead, require_metric
from pipeline.experiments.found import Experiment, opened
from pipeline.experiments.study.figures import svg
from pipeline.experiments.study.grid import Configuration, Study, slots
from pipeline.metrics.table import METRICS, Metric


@dataclass(frozen=True)
class LayerSets:
    """The sets of sources that are trained, all of the same recipe: configurations by what they say about a source.

    Attributes:
        every: all sources. alone: each source. without: all but that one. up_to: it and the shallower ones.
    """

    every: Configuration
    alone: Mapping[Source, Configuration]
    without: Mapping[Source, Configuration]
    up_to: Mapping[Source, Configuration]

    @classmethod
    def of(cls, params: Params, overrides: Sequence[str]) -> LayerSets:
        """The sets of the sources of `params`; `overrides` are settings of every configuration.

        Raises:
            ParamsError: there is one source.
        """
        sources = params.sources  # those of each network shallow to deep
        if len(sources) < 2:
            raise ParamsError(
                f"params.yaml: layer = {params.layer!r} is one layer; name several, "
                "for example --set layer=all --set decoder=linear"
            )
        recipe = params.decoder if params.fusion == NONE else f"{params.fusion}_{params.decoder}"
        prefix = f"layers_{'_'.join(f'{backbone}.{layers}' for backbone, layers in params.slots)}_{recipe}"
        others = [each for each in overrides if not each.startswith(("backbone=", "layer=", "fusion=", "ensemble."))]
        made: dict[tuple[Source, ...], Configuration] = {}  # one for each set, whatever it is called for

        def configured(name: str, members: tuple[Source, ...]) -> Configuration:
            fusion = NONE if len(members) == 1 else params.fusion
            settings = (f"{key}={value}" for key, value in {**slots(members), "fusion": fusion}.items())
            new = Configuration(f"{prefix}-{name}", name, recipe, (*others, *settings), members)
            return made.setdefault(members, new)

        return cls(
            every=configured("all", sources),
            alone={each: configured(f"{each}", (each,)) for each in sources},
            without={
                each: configured(f"without_{each}", (*sources[:place], *sources[place + 1 :]))
                for place, each in enumerate(sources)
            },
            up_to={each: configured(f"to_{each}", sources[: place + 1]) for place, each in enumerate(sources)},
        )

    @property
    def study(self) -> Study:
        every = [self.every, *self.alone.values(), *self.without.values(), *self.up_to.values()]
        name = self.every.name.removesuffix("-all")
        return Study(name, tuple({each.name: each for each in every}.values()))


def contributions(sets: LayerSets, experiments: Mapping[str, Experiment], metric: str) -> pd.DataFrame:
    """A row for each source, shallow to deep; differences are paired by photograph and positive if the source helps.

    Columns: source, shape, bicubic (PSNR in dB), alone, without, up_to (means of `metric`), left_out (all sources over
    all but this one) and added (this and the shallower ones over the shallower ones) with their `_low` and `_high`, and
    weight (of the fusion over all sources, NaN if it has none).
    """
    rows: list[dict[str, Any]] = []
    before: Experiment | None = None
    everything = experiments[sets.every.name]
    for source, configuration in sets.alone.items():
        alone, without, up_to = (
            experiments[each.name] for each in (configuration, sets.without[source], sets.up_to[source])
        )
        rows.append(
            {
                "source": str(source),
                "shape": alone.protocol["features"][str(source)]["shape"],
                "bicubic": alone.metrics["floors"]["bicubic"]["psnr"],
                "alone": alone.metrics[metric]["mean"],
                "without": without.metrics[metric]["mean"],
                "up_to": up_to.metrics[metric]["mean"],
                **_interval("left_out", lead(everything, without, metric)),
                **_interval("added", None if before is None else lead(up_to, before, metric)),
                "weight": everything.metrics.get("fusion", {}).get(str(source)),
            }
        )
        before = up_to
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(table.columns.drop(["source", "shape"]), float))


def _interval(name: str, found: Lead | None) -> dict[str, float | None]:
    values = (None, None, None) if found is None else (found.mean, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def contributions_markdown(table: pd.DataFrame, sets: LayerSets, everything: Experiment, metric: str) -> str:
    """The table as Markdown; below it the score of all sources together, and what was scored."""
    measure = METRICS.get(metric)
    header = ["source", "features", "bicubic dB", "alone", "up to this one", "added [95 %]", "all without this one"]
    header += ["left out [95 %]", "weight"]
    rows = [
        [
            row["source"], row["shape"], f"{row['bicubic']:.2f}", measure.shown(row["alone"]),
            measure.shown(row["up_to"]), _shown(row, "added", measure), measure.shown(row["without"]),
            _shown(row, "left_out", measure),
            "–" if pd.isna(row["weight"]) else f"{row['weight']:.3f}",
        ]
        for row in table.to_dict("records")
    ]  # fmt: skip
    total = measure.shown(everything.metrics[metric]["mean"])
    images = counted(everything.metrics["images"], "test image")
    about = f"{measure.title}, mean of {images}; all sources together: {total}."
    return f"{markdown_table(header, rows)}\n\n{about} {_scored(sets, everything)}"


def _shown(row: Mapping[str, float], name: str, measure: Metric) -> str:
    values = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    return "–" if pd.isna(row[name]) else "{} [{}, {}]".format(*(f"{each:+.{measure.digits}f}" for each in values))


def _scored(sets: LayerSets, everything: Experiment) -> str:
    """`linear · random weights (seed 0) · sample`."""
    return f"{sets.every.variant} · {weights(everything.protocol)} · {everything.protocol['data']['dataset']}"


def contributions_figure(table: pd.DataFrame, sets: LayerSets, everything: Experiment, metric: str) -> str:
    """SVG: the metric of each source alone, up to it and without it; and what is lost without it, with its weight."""
    layers = [Source.parse(source).layer for source in table["source"]]
    names = layers if len(set(layers)) == len(layers) else list(table["source"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(8, 0.9 * len(names)), 3.2), layout="constrained")
        scores, shares = figure.subplots(1, 2)
        for column, label in (("alone", "alone"), ("up_to", "it and shallower"), ("without", "all without it")):
            scores.plot(names, table[column], marker="o", label=label)
        scores.axhline(everything.metrics[metric]["mean"], color="grey", linestyle=":", label="all")
        scores.set(ylabel=METRICS.get(metric).title)
        bars = [
            (table["left_out"] - table["left_out_low"]).clip(0),
            (table["left_out_high"] - table["left_out"]).clip(0),
        ]
        shares.bar(names, table["left_out"], yerr=bars, color="#888")
        shares.set(ylabel=f"{METRICS.get(metric).title}: lost when left out")
        if table["weight"].notna().all():
            other = shares.twinx()
            other.plot(names, table["weight"], marker="s", color="C1")
            other.set_ylabel("weight in the fusion", color="C1")
            other.set_ylim(0, None)
        for place in (scores, shares):
            place.tick_params(axis="x", rotation=60)
        scores.legend(frameon=False)
        figure.suptitle(_scored(sets, everything), fontsize="medium")
        return svg(figure)


def write_contributions(sets: LayerSets, output: Path, metric: str) -> str:
    """Write layers.md, layers.csv and layers.svg into `output`; returns the table as Markdown.

    Raises:
        DataError: an experiment cannot be read, or has no `metric`.
    """
    names = [each.name for each in sets.study.configurations]
    with opened(names) as read:
        experiments = {each.name: each for each in read}
    require_metric(read, metric)
    everything = experiments[sets.every.name]
    table = contributions(sets, experiments, metric)
    with whole_file(output / "layers.csv") as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
    text = contributions_markdown(table, sets, everything, metric) + "\n"
    write_whole(output / "layers.md", text.encode())
    write_whole(output / "layers.svg", contributions_figure(table, sets, everything, metric).encode())
    return text
