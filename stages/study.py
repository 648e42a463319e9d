"""study: run many experiments from one file, through DVC's queue."""

from collections.abc import Sequence
from pathlib import Path

import typer

from pipeline.core.errors import DataError, DeviceError, ParamsError, ShapeError, WeightsError
from pipeline.core.params import Params
from pipeline.core.paths import Paths
from pipeline.core.progress import counted
from pipeline.core.runtime import choose_device
from pipeline.core.tables import text_table
from pipeline.experiments.study import experiments, work
from pipeline.experiments.study.estimate import Images, experiment_seconds, feature_bytes
from pipeline.experiments.study.experiments import Failure
from pipeline.experiments.study.grid import Configuration, Study, load_study
from pipeline.experiments.study.results import write_results
from pipeline.stores.prepared import PreparedData
from stages.loading import load_checked
from stages.options import METRICS, PARAMS, WORK
from stages.tables import duration, size


def study(file: Path, jobs: int | None, dry_run: bool, overrides: Sequence[str], out: Path | None, metric: str) -> None:
    """Run the missing experiments of the study in `file` and write its results; with `dry_run`, only estimate them."""
    loaded = load_study(file, PARAMS, overrides)
    wanted = checked(loaded)
    done = experiments.finished(wanted)
    if dry_run:
        show(loaded, wanted, done, Paths.below(Path()).data)
        return
    failures = run_missing(loaded, done, jobs)
    output = out or METRICS / "studies" / loaded.name
    lost = {failure.name for failure in failures}
    present = [each for each in loaded.configurations if each.name not in lost]
    notes = [f"Without a result: {', '.join(sorted(lost))}."] if lost else []
    if present:
        typer.echo(write_results(present, wanted[present[0].name], output, metric, notes))
        typer.echo(f"figures: {output}")
    require_success(loaded, failures)


def run_missing(loaded: Study, done: set[str], jobs: int | None) -> list[Failure]:
    """Compute the configurations that are not in `done`; return the failures."""
    waiting = [each for each in loaded.configurations if each.name not in done]
    total = counted(len(loaded.configurations), "experiment")
    typer.echo(f"{loaded.name}: {len(loaded.configurations) - len(waiting)} of {total} finished")
    return run(loaded, waiting, jobs) if waiting else []


def require_success(loaded: Study, failures: Sequence[Failure]) -> None:
    """Raise DataError that lists `failures`, if there are any."""
    if failures:
        logs = WORK / "studies" / loaded.name  # of the workers, with the reason why an experiment was not started
        lines = "\n".join(f"  {each.name}: {each.reason} ({each.log or logs})" for each in failures)
        raise DataError(f"{counted(len(failures), 'experiment')} failed; the same command tries them again\n{lines}")


def checked(study: Study) -> dict[str, Params]:
    """The params of every configuration, fully validated.

    Raises:
        ParamsError: all problems found, a line each, with the first configuration of each.
    """
    wanted: dict[str, Params] = {}
    problems: dict[str, list[str]] = {}
    for each in study.configurations:
        try:
            wanted[each.name] = load_checked(PARAMS, each.settings)
            _require_absolute_root(wanted[each.name])
        except (ParamsError, ShapeError, WeightsError) as error:
            problems.setdefault(str(error), []).append(each.name)
    if problems:
        raise ParamsError("\n".join(f"{_named(names)}: {text}" for text, names in problems.items()))
    return wanted


def _require_absolute_root(params: Params) -> None:
    """Raise ParamsError for a relative root of photographs, which temporary folders of DVC's queue do not have."""
    root = params.dataset_options.get("root")
    if root is not None and not Path(root).is_absolute():
        raise ParamsError(
            f"params.yaml: datasets.{params.dataset}.root = {root!r} is relative, but a study's experiments run in "
            f"temporary folders; add --set datasets.{params.dataset}.root={Path(root).absolute()}"
        )


def _named(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} others" if len(names) > 1 else "")


def run(study: Study, waiting: list[Configuration], jobs: int | None) -> list[Failure]:
    """Compute `waiting`; return the failures."""
    cards = work.graphics_cards()
    count = work.check_jobs(jobs, cards)
    names = [each.name for each in waiting]
    with experiments.opened_queue() as queue:
        if busy := queue.at_work(names):
            raise DeviceError(f"{busy[0]} is being computed by another study; wait for it, or stop it: dvc queue stop")
        queue.forget(names)
        work.extract_features(waiting, study.name, queue)
        for each in waiting:
            queue.put(each)
        work.work_off(len(names), lambda: len(experiments.existing(names)), count, cards, WORK / "studies" / study.name)
        return [queue.failure(name) for name in names if name not in experiments.existing(names)]


def show(study: Study, wanted: dict[str, Params], done: set[str], data: Path) -> None:
    """Print every configuration with its time, and the disk for all features."""
    prepared, device = PreparedData.open(data), choose_device()
    there = prepared.manifest["dataset"]
    if other := next((params.dataset for params in wanted.values() if params.dataset != there), None):
        raise DataError(f"{data} holds {there}, not {other}, so its images cannot be counted; prepare {other} first")
    images = Images(**{split: prepared.manifest["images"][split] for split in ("train", "validation", "test")})
    rows, total = [], 0.0
    for each in study.configurations:
        seconds = 0.0 if each.name in done else experiment_seconds(wanted[each.name], images, device)
        total += seconds
        rows.append([each.name, "finished" if each.name in done else duration(seconds)])
    typer.echo(text_table(["experiment", f"training ({device})"], rows))
    left = [params for name, params in wanted.items() if name not in done]
    typer.echo(
        f"{len(left)} of {len(wanted)} to run, about {duration(total)} of training one after another, "
        f"without scoring and refining; features: {size(feature_bytes(left, images))}"
    )
