"""A study's configurations as DVC experiments: which are finished, and the state of the others in the queue."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core.code import STAGES, files
from pipeline.core.errors import DataError, ParamsError
from pipeline.core.params import Params
from pipeline.core.section import Section, parse_section
from pipeline.core.sources import Source
from pipeline.experiments.study.grid import Configuration, slots

EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
PARAMS_FILE = "params.yaml"
FEATURE_SLOTS = 4  # backbones in the matrix of the stage `extract`
# choices that go with any sources, for an experiment of which only the features are computed
FEATURES_ALONE = ("fusion=none", "decoder=linear", "two_stage.refine=none", "evaluate.refine=none")


@dataclass(frozen=True)
class Failure:
    """A configuration that ran and has no result."""

    name: str
    log: Path | None  # its output; None if it was not started
    reason: str  # the first line of the log with an error


def finished(wanted: Mapping[str, Params]) -> set[str]:
    """The names in `wanted` that are experiments with exactly these parameters and the present code."""
    return {
        name
        for reference, name in _references()
        if name in wanted and _same_code(reference) and _params(reference) == wanted[name]
    }


def existing(names: Iterable[str]) -> set[str]:
    """Those of `names` that are experiments, with any parameters."""
    return set(names) & {name for _, name in _references()}


def _references() -> Iterator[tuple[str, str]]:
    """Git reference and name of every experiment, from every commit."""
    for reference in _git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines():
        if match := EXPERIMENT.fullmatch(reference):
            yield reference, match[1]


def _same_code(reference: str) -> bool:
    paths = map(str, files(*(f"stages.{stage}" for stage in STAGES)))
    return not _git("diff", "--name-only", reference, "--", "dvc.yaml", *paths)


def _params(reference: str) -> Section | None:
    """The parameters of an experiment; None if this version cannot read them."""
    values = YAML(typ="safe", pure=True).load(_git("show", f"{reference}:{PARAMS_FILE}"))
    try:
        return parse_section(Params, values)
    except ParamsError:
        return None


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if run.returncode:
        raise DataError(f"git {' '.join(arguments)} failed: {run.stderr.strip()}; run study in a clone of the project")
    return run.stdout


@contextmanager
def opened_queue() -> Iterator[Queue]:
    """DVC's experiment queue of this project. Raises DataError outside of one."""
    from dvc.exceptions import NotDvcRepoError  # slow to import
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield Queue(repo)
    except NotDvcRepoError:
        raise DataError(f"{Path.cwd()} is in no DVC project; run study in a clone of the project") from None


class Queue:
    """A study's operations on DVC's queue, one at a time, because DVC locks the project during each."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self._celery = repo.experiments.celery_queue

    def at_work(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that a running worker is computing."""
        active = [entry.name for entry in self._celery.iter_active() if entry.name in set(names)]
        return active if active and self._celery.worker_status() else []

    def forget(self, names: Iterable[str]) -> None:
        """Remove earlier experiments, failures and waiting entries of these names. Results stay in the run cache."""
        names = set(names)
        dead = [entry.name for entry in self._celery.iter_active() if entry.name in names]
        if dead:  # their worker was killed, but DVC still counts them as running
            self._celery.kill(dead, force=True)
        done = [result.entry.name for result in self._celery.iter_done()]
        queued = [entry.name for entry in self._celery.iter_queued()]
        waiting = Counter(name for name in (*queued, *done) if name in names)
        while waiting:
            self._celery.remove(list(waiting))  # one entry of each name at a time
            waiting -= Counter(list(waiting))
        for reference, name in _references():
            if name in names:
                _git("update-ref", "-d", reference)

    def put(self, configuration: Configuration) -> None:
        self._repo.experiments.run(queue=True, name=configuration.name, params=list(configuration.settings))

    def failure(self, name: str) -> Failure:
        """The failure of an experiment that has no result although the workers are done."""
        entry = self._celery.match_queue_entry_by_name([name], self._celery.iter_active(), self._celery.iter_done())
        process = self._celery.proc.get(entry[name].stash_rev) if entry[name] else None
        if process is None:
            return Failure(name, None, "it was not started")
        log = Path(process.stdout)
        lines = log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.lower().startswith("error")]
        return Failure(name, log, next(iter(errors or lines[::-1]), "its log is empty"))


def feature_settings(configurations: Iterable[Configuration]) -> list[tuple[str, ...]]:
    """Settings of the fewest experiments that extract all features of the configurations, four backbones at a time.

    Configurations with equal parameters of data and stores share an extraction.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for each in configurations:
        layers = groups.setdefault(each.data_settings, {})
        layers.update({source.backbone: source.layer for source in each.sources})
    found = []
    for settings, layers in groups.items():
        names = sorted(layers)
        for start in range(0, len(names), FEATURE_SLOTS):
            chosen = tuple(Source(name, layers[name]) for name in names[start : start + FEATURE_SLOTS])
            found.append((*settings, *FEATURES_ALONE, *(f"{key}={value}" for key, value in slots(chosen).items())))
    return found
