"""Find and read evaluations: folders with metrics, DVC experiments, and Git revisions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.core.errors import DataError
from pipeline.evaluation.pictures import Picture
from pipeline.evaluation.report import read_protocol, read_scores

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

METRICS_FOLDER, CURVES = "metrics", "training.csv"
WORKSPACE, COMMITTED = "workspace", "HEAD"  # DVC's name for the files as they are now, and Git's for the last commit
NEEDED = ("metrics.json", "protocol.json", "per_image.csv", "reconstructions")


@dataclass(frozen=True)
class Experiment:
    """The files of one evaluation."""

    name: str
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    per_image: pd.DataFrame  # indexed by image id
    pictures: Path
    curves: pd.DataFrame | None = None  # a row for each epoch; None if no training left any

    @classmethod
    def read(cls, name: str, folder: Path) -> Experiment:
        """Read the evaluation in `folder`. Raises DataError: a file is missing or damaged."""
        metrics = read_scores(folder)
        absent = [each for each in NEEDED if not (folder / each).exists()]
        if absent:
            raise DataError(
                f"{folder} lacks {', '.join(absent)}; fetch the files from DVC's cache (dvc pull, or dvc repro), or "
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
        """The photograph of each image. Raises DataError: an older version wrote per_image.csv without this column."""
        if "photograph" not in self.per_image:
            raise DataError(
                f"per_image.csv of {self.name} has no column photograph, which the test of leads resamples; "
                "evaluate it again: python -m stages evaluate"
            )
        return self.per_image["photograph"].tolist()

    def picture(self, image: str, kind: Literal["original", "reconstruction"]) -> Picture:
        number = self.protocol["reconstructions"].index(image)
        return np.asarray(Image.open(self.pictures / f"{number:02}_{kind}.png"))


@contextmanager
def opened(names: Sequence[str]) -> Iterator[list[Experiment]]:
    """The evaluations of `names`: folders with metrics, DVC experiments, or Git revisions.

    Raises:
        DataError: there is no such folder, experiment or revision, or it holds no evaluation.
    """
    with tempfile.TemporaryDirectory() as temporary:
        yield read_named(names, Path(temporary))


def read_named(names: Sequence[str], temporary: Path) -> list[Experiment]:
    """Read the evaluations of `names`; those of experiments and revisions are fetched into `temporary`.

    Raises:
        DataError: as `opened`.
    """
    return [Experiment.read(name, _place(name, temporary)) for name in names]


def read_all(fetched: Path, root: Path = Path()) -> tuple[list[Experiment], list[str]]:
    """Read the workspace, all DVC experiments and the last commit of the project in `root`.

    Files from Git and DVC's cache go into `fetched`; those that are there already are not fetched again.

    Returns:
        The evaluations, where equal scores are one with all their names; and a sentence for each that cannot be read.

    Raises:
        DataError: none of them can be read.
    """
    found: dict[str, Experiment] = {}  # by scores and protocol
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


def dvc_experiments(root: Path) -> list[tuple[str, str]]:
    """Names and revisions of all DVC experiments of the project in `root`, from every commit."""
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
    """The folder with the metrics of `name`; those of a revision are fetched into a folder of `fetched`."""
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
            curves = [f"{METRICS_FOLDER}/{CURVES}"] if files.isfile(f"{METRICS_FOLDER}/{CURVES}") else []
            copy_whole(files, [*(f"{METRICS_FOLDER}/{name}" for name in NEEDED), *curves], target)
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


def copy_whole(files: DVCFileSystem, names: Iterable[str], target: Path) -> None:
    """Copy files and folders of a revision into the folder `target`, which is never there in part."""
    part = Path(tempfile.mkdtemp(dir=target.parent))
    for name in names:
        files.get(name, str(part / Path(name).name), recursive=files.isdir(name))
    try:
        part.rename(target)
    except OSError:
        if not target.is_dir():  # else another thread was first
            raise
