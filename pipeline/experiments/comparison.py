"""Several experiments side by side: a leaderboard with paired significance, and the same photographs from each."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.core.errors import NOTHING_GAINED, DataError
from pipeline.core.files import whole_file, write_whole
from pipeline.core.params import NONE
from pipeline.core.progress import counted
from pipeline.core.tables import markdown_table
from pipeline.evaluation.conventions import differences
from pipeline.evaluation.pictures import Picture, enlarged, require_folder, save_png, sheet
from pipeline.evaluation.report import is_linear_start, read_protocol, read_scores, title, weights
from pipeline.metrics.scores import bootstrap_means
from pipeline.metrics.table import METRICS, all_metrics

METRICS_FOLDER, CURVES = "metrics", "training.csv"
WORKSPACE, COMMITTED = "workspace", "HEAD"  # DVC calls the files as they are now `workspace`
STRIP = "strip.png"
NEEDED = ("metrics.json", "protocol.json", "per_image.csv", "reconstructions")
LINEAR_START = " (= linear start)"  # no epoch of its training came up to that
RESAMPLES, SEED = 10_000, 0
FEW = 30  # photographs: with fewer, resampling them says too little of how others would differ


@dataclass(frozen=True)
class Experiment:
    """One evaluation: its files, read."""

    name: str
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    per_image: pd.DataFrame  # indexed by image id
    pictures: Path
    curves: pd.DataFrame | None = None  # a row for each epoch; None where no training left any

    @classmethod
    def read(cls, name: str, folder: Path) -> Experiment:
        """Raises DataError: evaluate has not written into `folder`, or not all of it is here."""
        metrics = read_scores(folder)
        absent = [each for each in NEEDED if not (folder / each).exists()]
        if absent:
            raise DataError(
                f"{folder} lacks {', '.join(absent)}; fetch what DVC has cached of it (dvc pull, or dvc repro), or "
                "evaluate again: python -m stages evaluate"
            )
        return cls(
            name,
            metrics,
            read_protocol(folder),
            pd.read_csv(folder / "per_image.csv", index_col="image", converters={"image": str, "photograph": str}),
            folder / "reconstructions",
            pd.read_csv(folder / CURVES) if (folder / CURVES).is_file() else None,
        )

    @property
    def photographs(self) -> list[str]:
        """What each image shows. Raises DataError: per_image.csv is of a version that did not write it."""
        if "photograph" not in self.per_image:
            raise DataError(
                f"per_image.csv of {self.name} has no column photograph, and leads are tested by resampling "
                "photographs; evaluate it again: python -m stages evaluate"
            )
        return self.per_image["photograph"].tolist()

    def picture(self, image: str, kind: Literal["original", "reconstruction"]) -> Picture:
        number = self.protocol["reconstructions"].index(image)
        return np.asarray(Image.open(self.pictures / f"{number:02}_{kind}.png"))


@dataclass(frozen=True)
class Lead:
    """By how much an experiment is better than another on the same images: mean, 95 % interval, two-sided p.

    `photographs` is how many these images show.
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


@contextmanager
def opened(names: Sequence[str]) -> Iterator[list[Experiment]]:
    """The experiments called `names`: folders with metrics, DVC experiments, or Git revisions.

    Raises:
        DataError: no such thing, or it holds no evaluation.
    """
    with tempfile.TemporaryDirectory() as temporary:
        yield _named(names, Path(temporary))


def compare(names: Sequence[str], output: Path, metric: str = "psnr") -> str:
    """Write leaderboard.md, leaderboard.csv and strip.png into `output`; returns the leaderboard as Markdown.

    Without `names`: of the workspace, all DVC experiments and the last commit, and a sentence for each of these that
    cannot be read here.

    Best first by the mean of `metric`; each line says by how much it leads the next one, on the same photographs.
    Experiments of another protocol than the first are named, and never tested against the others. No strip where
    the experiments saved no photograph in common.

    Raises:
        DataError: an experiment cannot be found or was not scored by `metric`, or its per_image.csv names no
            photographs.
    """
    require_folder(output)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        experiments, left_out = (_named(names, place), []) if names else everything(place)
        table = leaderboard(experiments, metric)
        notes = [*lead_notes(table), *gain_notes(experiments), *protocol_notes(experiments), *left_out]
        with whole_file(output / "leaderboard.csv") as part:
            table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
        text = "\n".join([markdown(table), *(f"\n{note}" for note in notes)]) + "\n"
        write_whole(output / "leaderboard.md", text.encode())
        picture = strip(experiments)
        (output / STRIP).unlink(missing_ok=True)  # of an earlier comparison
        if picture is not None:
            save_png(picture, output / STRIP)
    return text


def everything(fetched: Path, root: Path = Path()) -> tuple[list[Experiment], list[str]]:
    """What can be compared in the project in `root`, and a sentence for each that cannot.

    The workspace, all DVC experiments and the last commit; equal scores are one, under all their names. What comes out
    of Git and DVC's cache is put into `fetched`, and is not fetched again where it is there already.

    Raises:
        DataError: there is nothing at all.
    """
    found: dict[str, Experiment] = {}  # by what was scored and how
    left_out: list[str] = []
    try:
        revisions = [(WORKSPACE, WORKSPACE), *dvc_experiments(root), (COMMITTED, COMMITTED)]
    except DataError as error:
        revisions = [(WORKSPACE, WORKSPACE)]
        left_out.append(f"{error}.")
    for name, revision in revisions:
        try:
            experiment = Experiment.read(name, _place(revision, fetched, root))
            assert experiment.photographs
        except DataError as error:
            left_out.append(f"{name} is left out: {error}.")
            continue
        content = json.dumps([experiment.metrics, experiment.protocol], sort_keys=True)
        same = found.get(content)
        found[content] = experiment if same is None else replace(same, name=f"{same.name}, {name}")
    if not found:
        raise DataError("\n".join(["there is nothing to compare yet; run dvc repro, or name folders", *left_out]))
    return list(found.values()), left_out


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
    without = [each.name for each in experiments if each.metrics.get(metric) is None]
    if without:
        raise DataError(f"no {metric} in {', '.join(without)}; compare by a metric that all have (--metric psnr)")
    sign = -1 if METRICS.get(metric).higher_is_better else 1
    order = sorted(experiments, key=lambda each: sign * each.metrics[metric]["mean"])
    return pd.DataFrame(
        _row(place + 1, each, order[place + 1] if place + 1 < len(order) else None, metric)
        for place, each in enumerate(order)
    )


def lead(first: Experiment, second: Experiment, metric: str) -> Lead | None:
    """Paired cluster bootstrap over the photographs both were scored on; None when their protocols differ.

    Raises DataError: per_image.csv names no photographs.
    """
    if differences(first.protocol, second.protocol):
        return None
    sign = 1 if METRICS.get(metric).higher_is_better else -1
    # equal protocols mean equal pixels in equal order, whatever the files are called
    gains = sign * (first.per_image[metric].to_numpy() - second.per_image[metric].to_numpy())
    photographs = first.photographs
    means = bootstrap_means(gains[:, None], photographs, RESAMPLES, SEED)[:, 0]
    low, high = np.quantile(means, (0.025, 0.975))
    count = len(set(photographs))
    smallest = 2.0 ** (1 - count)  # of a sign test's two-sided p: resampling ever so often proves no more than that
    p = min(1.0, max(smallest, 2 * min(float((means <= 0).mean()), float((means >= 0).mean()))))
    return Lead(float(gains.mean()), float(low), float(high), p, count)


def lead_notes(table: pd.DataFrame) -> Iterator[str]:
    """A sentence where leads were tested on few photographs."""
    for photographs in table["lead_photographs"].dropna().astype(int).unique():
        if photographs < FEW:
            yield (
                f"Intervals and p resample the {counted(photographs, 'test photograph')}, each with all its images; "
                f"with fewer than {FEW} they are rough, and rather too sure."
            )


def gain_notes(experiments: Sequence[Experiment]) -> Iterator[str]:
    """A sentence where an experiment's training gained nothing."""
    names = [each.name for each in experiments if is_linear_start(each.metrics)]
    if names:
        yield f"{', '.join(names)}: {NOTHING_GAINED}"


def protocol_notes(experiments: Sequence[Experiment]) -> Iterator[str]:
    """A sentence for each experiment that cannot be compared with the first."""
    for other in experiments[1:]:
        found = differences(experiments[0].protocol, other.protocol)
        if found:
            yield f"{other.name} was scored under another protocol than {experiments[0].name}: {'; '.join(found)}."


def markdown(table: pd.DataFrame) -> str:
    """The leaderboard as a Markdown table."""
    columns = {
        "rank": "#", "experiment": "experiment", "setting": "setting", "psnr": "PSNR dB", "ssim": "SSIM",
        "lpips": "LPIPS", "parameters": "parameters", "lead": "ahead of the next by",
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
    """The photographs that all experiments saved, a row each: original, then every experiment's reconstruction.

    `caption` words what stands over a reconstruction: PSNR, the experiment's name and its weights by default. What is
    `about` all of them stands under the photograph's name.
    Experiments of another protocol than the first are left out; None when there is no common photograph.
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


def _named(names: Sequence[str], temporary: Path) -> list[Experiment]:
    return [Experiment.read(name, _place(name, temporary)) for name in names]


def dvc_experiments(root: Path) -> list[tuple[str, str]]:
    """Names and revisions of all DVC experiments of the project in `root`, whatever commit they started from."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCMError

    try:
        with Repo(str(root)) as repo:
            listed = [pair for pairs in repo.experiments.ls(all_commits=True).values() for pair in pairs]
    except (NoSCMError, NotDvcRepoError):
        raise DataError(
            f"DVC experiments cannot be looked up because {root.resolve()} is in no Git repository with DVC; name "
            "folders with metrics.json, or run compare inside the project"
        ) from None
    names = [name for name, _ in listed]
    return [(name if names.count(name) == 1 else f"{name} ({revision[:7]})", revision) for name, revision in listed]


def _place(name: str, fetched: Path, root: Path = Path()) -> Path:
    """The folder that holds the metrics of `name`; those of a revision are in `fetched`, and come there where not."""
    folder = root if name == WORKSPACE else root / name
    for place in (folder, folder / METRICS_FOLDER):
        if (place / "metrics.json").is_file():
            return place
    return folder / METRICS_FOLDER if name == WORKSPACE else _fetch(name, fetched, root)


def _fetch(revision: str, fetched: Path, root: Path) -> Path:
    """Metrics of a DVC experiment or Git revision of this project, from Git and DVC's cache, below `fetched`."""
    from dvc.api import DVCFileSystem  # slow to import, and not needed for folders
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCMError, RevError, resolve_rev

    try:
        with Repo(str(root)) as repo:
            commit = resolve_rev(repo.scm, revision)
            target = fetched / commit
            if target.is_dir():
                return target
            files = DVCFileSystem(repo.root_dir, rev=commit)
            with tempfile.TemporaryDirectory(dir=fetched) as part:
                for name in NEEDED:
                    files.get(f"{METRICS_FOLDER}/{name}", f"{part}/{name}", recursive=name == "reconstructions")
                if files.isfile(f"{METRICS_FOLDER}/{CURVES}"):
                    files.get(f"{METRICS_FOLDER}/{CURVES}", f"{part}/{CURVES}")
                shutil.copytree(part, target)
            return target
    except (NoSCMError, NotDvcRepoError):
        raise DataError(
            f"'{revision}' is no folder with metrics.json, and experiments and revisions cannot be looked up because "
            f"{root.resolve()} is in no Git repository with DVC; name a folder, or run compare inside the project"
        ) from None
    except RevError:
        raise DataError(
            f"'{revision}' is no folder with metrics.json, no DVC experiment and no Git revision; see: dvc exp list"
        ) from None
    except (DvcException, FileNotFoundError) as error:
        raise DataError(
            f"the evaluation of '{revision}' cannot be read ({error}); {METRICS_FOLDER}/protocol.json and "
            "reconstructions are in DVC's cache: run dvc pull --all-commits, or dvc repro on that revision"
        ) from None
