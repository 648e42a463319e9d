"""The table of a study whose experiments refine images: bicubic floor, ridge, decoder and refined image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.core.tables import markdown_table
from pipeline.experiments.found import Experiment
from pipeline.experiments.study.grid import Configuration

COLUMNS = {  # column of the table → column of per_image.csv
    "bicubic": "bicubic_psnr",
    "ridge": "linear_psnr",
    "decoder": "psnr",
    "refined": "refined_psnr",
}
DECIBELS = "{:.2f}"


def held(configurations: Sequence[Configuration], experiments: Mapping[str, Experiment]) -> pd.DataFrame:
    """A row for each experiment that refined images, with the mean PSNR of exactly the images that were refined.

    Columns: source, variant, refiner, budget (evaluations of the network for each image), images, bicubic, ridge,
    decoder, refined, warned (refining lowered the PSNR of validation images while their feature error fell). For the
    decoder `linear`, ridge is the decoder; a decoder that did not start from a read-out has no ridge. Networks are
    ordered as in the study, and the layers of each by depth.
    """
    rows = []
    for each in configurations:
        experiment = experiments[each.name]
        if "refinement" not in experiment.protocol:
            continue
        images = experiment.per_image.dropna(subset=COLUMNS["refined"])
        if experiment.protocol["model"]["blueprint"]["decoder"] == "linear":
            images = images.assign(**{COLUMNS["ridge"]: images[COLUMNS["decoder"]]})
        rows.append(
            {
                "source": each.source,
                "variant": each.variant,
                **{key: experiment.protocol["refinement"][key] for key in ("refiner", "budget")},
                "images": len(images),
                **images.reindex(columns=list(COLUMNS.values())).mean().set_axis(list(COLUMNS)),
                "warned": experiment.protocol["refinement"]["warning"] is not None,
            }
        )
    networks = list(dict.fromkeys(_network(row["source"]) for row in rows))
    rows.sort(key=lambda row: (networks.index(_network(row["source"])), _depth(row["source"])))
    return pd.DataFrame(rows)


def held_markdown(table: pd.DataFrame) -> str:
    """A row for each source and a column for each variant; each cell is ridge / decoder / refined, dB."""
    variants = list(dict.fromkeys(table["variant"]))
    header = ["source", "refined by (evaluations)", "bicubic", *variants]
    images = ", ".join(f"{count}" for count in sorted(set(table["images"])))
    lines = []
    for source, rows in table.groupby("source", sort=False):
        cells = {row["variant"]: _cell(row) for _, row in rows.iterrows()}
        refiners = ", ".join(dict.fromkeys(f"{row['refiner']} ({row['budget']})" for _, row in rows.iterrows()))
        bicubic = DECIBELS.format(rows["bicubic"].iloc[0])
        lines.append([str(source), refiners, bicubic, *(cells.get(variant, "–") for variant in variants)])
    caption = f"Mean PSNR in dB of {images} test photographs; in each cell ridge / decoder / refined."
    return f"{caption}\n\n{markdown_table(header, lines)}"


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """The first variant of each source: bicubic, ridge, decoder and refined (rows) over the sources (columns)."""
    first = table.drop_duplicates("source").set_index("source")
    return first[list(COLUMNS)].T


def _network(source: str) -> str:
    return source.partition(".")[0]


def _depth(source: str) -> int:
    """The depth of a source: 10 for `vit_small.block10`, 0 for an ensemble, whose name has no layer."""
    return int("".join(filter(str.isdigit, source.partition(".")[2])) or 0)


def _cell(row: pd.Series) -> str:
    values = (row[name] for name in COLUMNS if name != "bicubic")
    return " / ".join("–" if pd.isna(value) else DECIBELS.format(value) for value in values)
