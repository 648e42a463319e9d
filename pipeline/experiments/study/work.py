"""Compute a study: first the features, once; then the experiments by workers of DVC's queue, at most one per GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from pipeline.core.errors import DataError, DeviceError
from pipeline.core.progress import progress
from pipeline.experiments.study.experiments import Queue, feature_settings
from pipeline.experiments.study.grid import Configuration

DVC = (sys.executable, "-m", "dvc")
READY = "ready."  # what a worker logs once it listens to the queue
WAIT = 1.0  # seconds between two checks of the workers
VISIBLE = "CUDA_VISIBLE_DEVICES"


def graphics_cards() -> tuple[str, ...]:
    """The names in CUDA_VISIBLE_DEVICES of the GPUs that this process may use."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(named[:count] or map(str, range(count)))


def check_jobs(jobs: int | None, cards: Sequence[str]) -> int:
    """The number of experiments at a time: `jobs`, by default one for each GPU, or one without a GPU.

    Raises:
        DeviceError: `jobs` is below one, or exceeds the number of GPUs if there are any.
    """
    if jobs is None:
        return max(1, len(cards))
    if jobs < 1:
        raise DeviceError(f"--jobs {jobs}: must be at least 1")
    if cards and jobs > len(cards):
        raise DeviceError(
            f"--jobs {jobs}: {len(cards)} GPUs are visible here, and two experiments on one GPU would share its "
            f"memory; give at most {len(cards)}"
        )
    return jobs


def extract_features(configurations: Iterable[Configuration], study: str, queue: Queue) -> None:
    """Fill DVC's cache with all features of the configurations; cached features are not computed again.

    Raises:
        DataError: an extraction failed.
    """
    name = f"{study}-features"
    for settings in feature_settings(configurations):
        queue.forget([name])
        options = [part for setting in settings for part in ("-S", setting)]
        command = [*DVC, "exp", "run", "--temp", "--name", name, *options, "prior", "extract"]
        run = subprocess.run(command, env=_environment())
        if run.returncode:
            raise DataError(
                f"the features of {study} could not be extracted; DVC gives the reason above (in a fresh clone it "
                "needs the outputs that dvc.lock names: run dvc repro, or dvc pull, first)"
            )
    queue.forget([name])


def work_off(count: int, finished: Callable[[], int], jobs: int, cards: Sequence[str], logs: Path) -> None:
    """Run `jobs` workers of DVC's queue until it is empty; worker k sees GPU k only. They end with this process.

    A worker ends some seconds after it found the queue empty; once all experiments have a result, this function does
    not wait for that.

    Args:
        count: experiments in the queue. finished: returns how many of them have a result.
    """
    with _workers(jobs, cards, logs) as workers, progress("study", count, "experiments") as advance:
        seen = 0
        while seen < count and any(worker.poll() is None for worker in workers):
            time.sleep(WAIT)
            now = finished()
            advance(now - seen)
            seen = now


@contextmanager
def _workers(jobs: int, cards: Sequence[str], logs: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        workers: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, workers)
        for number in range(jobs):
            environment = _environment(jobs)
            if cards:
                environment[VISIBLE] = cards[number]
            path = logs / f"worker_{number}.log"
            log = stack.enter_context(path.open("wb"))
            command = [*DVC, "exp", "queue-worker", f"study-{os.getpid()}-{number}@localhost"]
            workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
            _wait_until_ready(workers[-1], path)
        yield workers


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all workers to end after their present experiment, and wait."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait()


def _wait_until_ready(worker: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a worker to start: two that start at once can break the queue's files, which they do not lock."""
    while worker.poll() is None and READY not in log.read_text(errors="replace"):
        time.sleep(WAIT / 5)


def _environment(jobs: int = 1) -> dict[str, str]:
    """This process's environment, with its Python first on the path, from which DVC runs `python` and `dvc`."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment
