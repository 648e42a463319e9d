"""Several experiments side by side: a leaderboard with paired significance, and the same photographs from each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import NOTHING_GAINED, DataError
from pipeline.core.files import whole_file, write_whole
from pipeline.core.params import NONE
from pipeline.core.progress import counted
from pipeline.core.tables import markdown_table
from pipeline.evaluation.bootstrap import bootstrap_means
from pipeline.evaluation.conventions import differences
from pipeline.evaluation.pictures import Picture, enlarged, require_folder, save_png, sheet
from pipeline.evaluation.report import is_linear_start, title, weights
from pipeline.experiments.found import Experiment, read_all, read_named
from pipeline.metrics.table import METRICS, all_metrics

STRIP = "strip.png"
LINEAR_START = " (= linear start)"  # marks a training without an epoch better than its start
RESAMPLES, SEED = 10_000, 0
FEW = 30  # photographs; with fewer, the bootstrap is inaccurate


@dataclass(frozen=True)
class Lead:
    """The lead of an experiment over another on the same images: mean, 95 % interval, two-sided p.

    `photographs` is the number of photographs of these images.
    """

    mean: float
    low: float
    high: float
    p: float
    photographs: int

    def __str__(self) -> str:
        p = f"p < {1 / RESAMPLES:g}" if self.p < 1 / RESAMPLES else f"p = {self.p:.2g}"
        return f"{self.mean:+.4g} [{self.low:+.4g}, {self.high:+.4g}], {p}"


Caption = Callable[[Experiment, str], str]  # takes an experiment and the id of an image


def compare(names: Sequence[str], output: Path, metric: str = "psnr") -> str:
    """Write leaderboard.md, leaderboard.csv and strip.png into `output`; returns the leaderboard as Markdown.

    Rows are sorted by the mean of `metric`, the best first; each has its lead over the next one on the same
    photographs. Experiments with another protocol than the first are named, but never tested against the others. There
    is no strip if the experiments saved no photograph in common.

    Args:
        names: of the experiments; empty for the workspace, all DVC experiments and the last commit, with a sentence for
            each of these that cannot be read here.

    Raises:
        DataError: an experiment cannot be found, has no `metric`, or its per_image.csv names no photographs.
    """
    require_folder(output)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        experiments, left_out = (read_named(names, place), []) if names else read_all(place)
        table = leaderboard(experiments, metric)
        notes = [*lead_notes(table), *gain_notes(experiments), *protocol_notes(experiments, metric), *left_out]
        with whole_file(output / "leaderboard.csv") as part:
            table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
        text = "\n".join([markdown(table, metric), *(f"\n{note}" for note in notes)]) + "\n"
        write_whole(output / "leaderboard.md", text.encode())
        picture = strip(experiments)
        (output / STRIP).unlink(missing_ok=True)  # of an earlier comparison
        if picture is not None:
            save_png(picture, output / STRIP)
    return text


def varied(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """A row for each experiment, a column for each setting that differs between those that have it, as text.

    Columns are called as in params.yaml, but for `source` (layers) and `weights` (of the networks).
    """
    table = pd.DataFrame([settings(each.protocol) for each in experiments], index=[each.name for each in experiments])
    return table.loc[:, [column for column in table if table[column].nunique() > 1]].fillna("")


def settings(protocol: Mapping[str, Any]) -> dict[str, str]:
    """What made the scores of an experiment: its settings by their keys in params.yaml, as text."""
    model, features = protocol["model"], protocol["features"]
    blueprint = model["blueprint"]
    found = {
        "dataset": protocol["data"]["dataset"],
        "source": " + ".join(features),
        "weights": weights(protocol),
        "store.dtype": ", ".join(dict.fromkeys(each["dtype"] for each in features.values() if "dtype" in each)),
        "decoder": blueprint["decoder"],
        f"decoders.{blueprint['decoder']}": blueprint.get("decoder_options", {}),
        "fusion": blueprint["fusion"],
        f"fusions.{blueprint['fusion']}": blueprint.get("fusion_options", {}),
        "two_stage.refine": protocol.get("first_stage", {}).get("refiner", NONE),
        "loss": ", ".join(model.get("loss", {})),
        "seed": model.get("seed", ""),
        "train": model.get("train", {}),
        f"protocols.{model.get('train', {}).get('protocol')}": model.get("protocol", {}),
        "prepare": model.get("prepare", {}),
        "evaluate.refine": protocol.get("refinement", {}).get("refiner", NONE),
        "evaluate.refine_budget": protocol.get("refinement", {}).get("budget", ""),
    }
    return dict(_flat(found))


def leaderboard(experiments: Sequence[Experiment], metric: str) -> pd.DataFrame:
    """One row for each experiment, best first. Raises DataError: one has no `metric`."""
    require_metric(experiments, metric)
    sign = -1 if METRICS.get(metric).higher_is_better else 1
    order = sorted(experiments, key=lambda each: sign * each.metrics[metric]["mean"])
    return pd.DataFrame(
        _row(place + 1, each, order[place + 1] if place + 1 < len(order) else None, metric)
        for place, each in enumerate(order)
    )


def require_metric(experiments: Sequence[Experiment], metric: str) -> None:
    """Raise DataError if an experiment has no `metric`."""
    without = [each.name for each in experiments if "mean" not in (each.metrics.get(metric) or {})]
    if without:
        raise DataError(f"no {metric} in {', '.join(without)}; compare by a metric that all have (--metric psnr)")


def lead(first: Experiment, second: Experiment, metric: str) -> Lead | None:
    """Paired cluster bootstrap over the photographs of both experiments; None if their protocols differ.

    Raises:
        DataError: per_image.csv names no photographs.
    """
    if differences(first.protocol, second.protocol, metric):
        return None
    sign = 1 if METRICS.get(metric).higher_is_better else -1
    # equal protocols mean equal pixels in equal order, even if files have other names
    gains = sign * (first.per_image[metric].to_numpy() - second.per_image[metric].to_numpy())
    photographs = first.photographs
    means = bootstrap_means(gains[:, None], photographs, RESAMPLES, SEED)[:, 0]
    low, high = np.quantile(means, (0.025, 0.975))
    count = len(set(photographs))
    smallest = 2.0 ** (1 - count)  # p of a two-sided sign test; more resamples cannot prove more
    p = min(1.0, max(smallest, 2 * min(float((means <= 0).mean()), float((means >= 0).mean()))))
    return Lead(float(gains.mean()), float(low), float(high), p, count)


def lead_notes(table: pd.DataFrame) -> Iterator[str]:
    """A sentence if leads were tested on few photographs."""
    for photographs in table["lead_photographs"].dropna().astype(int).unique():
        if photographs < FEW:
            yield (
                f"Intervals and p resample the {counted(photographs, 'test photograph')}, each with all its images; "
                f"with fewer than {FEW} the intervals tend to be too narrow and p too small."
            )


def gain_notes(experiments: Sequence[Experiment]) -> Iterator[str]:
    """A sentence if the training of an experiment gained nothing."""
    names = [each.name for each in experiments if is_linear_start(each.metrics)]
    if names:
        yield f"{', '.join(names)}: {NOTHING_GAINED}"


def protocol_notes(experiments: Sequence[Experiment], metric: str) -> Iterator[str]:
    """A sentence for each experiment that cannot be compared with the first."""
    for other in experiments[1:]:
        found = differences(experiments[0].protocol, other.protocol, metric)
        if found:
            yield f"{other.name} was scored under another protocol than {experiments[0].name}: {'; '.join(found)}."


def markdown(table: pd.DataFrame, metric: str) -> str:
    """The leaderboard as a Markdown table, with `metric` beside PSNR, SSIM and LPIPS."""
    columns = {
        "rank": "#", "experiment": "experiment", "setting": "setting", metric: METRICS.get(metric).label,
        "psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "parameters": "parameters", "lead": "ahead of the next by",
    }  # fmt: skip
    formats: dict[str, Callable[[Any], str]] = {name: metric.shown for name, metric in all_metrics().items()}
    formats["parameters"] = "{:,.0f}".format
    rows = (
        ["–" if pd.isna(row[key]) else formats.get(key, str)(row[key]) for key in columns]
        for _, row in table.iterrows()
    )
    return markdown_table([*columns.values()], rows)


def same_photographs(experiments: Sequence[Experiment]) -> tuple[list[Experiment], list[str]]:
    """The experiments of the first one's protocol, and the images that all of these saved."""
    alike = [each for each in experiments if not differences(experiments[0].protocol, each.protocol)]
    common = [
        image
        for image in alike[0].protocol["reconstructions"]
        if all(image in each.protocol["reconstructions"] for each in alike)
    ]
    return alike, common


def strip(experiments: Sequence[Experiment], caption: Caption | None = None, about: str = "") -> Picture | None:
    """A row for each photograph that all experiments saved: original, then every experiment's reconstruction.

    Experiments with another protocol than the first are left out.

    Args:
        caption: the text over a reconstruction; by default PSNR, the experiment's name and its weights.
        about: a text under the photograph's name.

    Returns:
        None if no photograph is common to the experiments.
    """
    alike, common = same_photographs(experiments)
    if not common:
        return None
    rows = [
        [
            enlarged(alike[0].picture(image, "original")),
            *(enlarged(each.picture(image, "reconstruction")) for each in alike),
        ]
        for image in common
    ]
    words = caption or _psnr_and_name
    return sheet(rows, [[f"{image}\n{about}".strip(), *(words(each, image) for each in alike)] for image in common])


def _psnr_and_name(experiment: Experiment, image: str) -> str:
    psnr = experiment.per_image.loc[image, "psnr"]
    return f"{psnr:.2f} dB  {experiment.name}\n{weights(experiment.protocol)}"


def _row(rank: int, experiment: Experiment, following: Experiment | None, metric: str) -> dict[str, Any]:
    ahead = None if following is None else lead(experiment, following, metric)
    means = {name: (experiment.metrics.get(name) or {}).get("mean") for name in all_metrics()}
    return {
        "rank": rank,
        "experiment": experiment.name,
        "setting": title(experiment.protocol) + LINEAR_START * is_linear_start(experiment.metrics),
        **means,
        "parameters": experiment.metrics["decoder"]["parameters"],
        "lead": None if ahead is None else str(ahead),
        "lead_mean": None if ahead is None else ahead.mean,
        "lead_low": None if ahead is None else ahead.low,
        "lead_high": None if ahead is None else ahead.high,
        "lead_p": None if ahead is None else ahead.p,
        "lead_photographs": None if ahead is None else ahead.photographs,
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value that is no section, as text, by its dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
