"""`python -m benchmarks.prepare`: photographs per second of `prepare`, beside a plain Pillow loop on the same cores.

The loop does the minimum: open, RGB, resize, in one process for each core, without checks, checksums or writing. The
same work in threads is measured too, because `prepare` uses threads. CPU time is shown because, unlike the rate, it
does not depend on other work on the machine.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import multiprocessing.pool
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core.params import Params, load_params
from pipeline.core.section import Section
from pipeline.data.preparation.dataset import DATASETS
from pipeline.data.preparation.run import prepare

SIZE = 256
KINDS = {  # name: (width, height, ending): as in the real data sets
    "imagenet_val": (500, 375, "jpg"),
    "celeba_hq": (1024, 1024, "jpg"),
    "div2k": (2040, 1356, "png"),
}


def photographs(folder: Path, count: int, kind: str) -> list[Path]:
    """`count` different cut-outs of the sample photographs, in the size and format of data set `kind`."""
    width, height, ending = KINDS[kind]
    originals = [Image.open(photograph.path) for photograph in DATASETS.get("sample")(Section(), 0).photographs()]
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        original = originals[number % len(originals)]
        left, top = (int(random.integers(0, edge // 3)) for edge in original.size)
        part = original.crop((left, top, left + original.width * 2 // 3, top + original.height * 2 // 3))
        part.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.{ending}")
    return sorted(folder.iterdir())


def plain(path: Path) -> float:
    """CPU seconds for one photograph."""
    start = time.thread_time()
    np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return time.thread_time() - start


def plain_all(paths: Sequence[Path]) -> float:
    return sum(map(plain, paths))


def in_processes(pool: multiprocessing.pool.Pool, paths: Sequence[Path]) -> float:
    return sum(pool.map(plain, paths, chunksize=max(1, len(paths) // 100)))


def in_threads(workers: int, paths: Sequence[Path]) -> float:
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(plain, paths))


def whole_stage(params: Params, folder: Path, workers: int) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    start = time.process_time()
    prepare(params, folder / "prepared", folder / "work", workers)
    return time.process_time() - start


def best(images: int, runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, tuple[float, float]]:
    """Images a second and CPU milliseconds an image of each run: the best of `repeats`, taken in turn."""
    seconds, cpu = dict.fromkeys(runs, math.inf), dict.fromkeys(runs, math.inf)
    for _ in range(repeats + 1):  # the first round warms up and can only be slower
        for name, run in runs.items():
            start = time.perf_counter()
            cpu[name] = min(cpu[name], run())
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {name: (images / seconds[name], 1000 * cpu[name] / images) for name in runs}


def measure(kind: str, count: int, workers: int, repeats: int) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as temporary, multiprocessing.get_context("forkserver").Pool(workers) as pool:
        folder = Path(temporary)
        paths = photographs(folder / "photographs", count, kind)
        settings = (f"prepare.size={SIZE}", "dataset=folder", f"datasets.folder.root={folder / 'photographs'}")
        runs: dict[str, Callable[[], float]] = {
            "plain, one process": partial(plain_all, paths),
            f"plain, {workers} processes": partial(in_processes, pool, paths),
            f"plain, {workers} threads": partial(in_threads, workers, paths),
            f"prepare, {workers} threads": partial(whole_stage, load_params(overrides=settings), folder / "x", workers),
        }
        return best(count, runs, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--images", type=int, default=400, help="photographs (div2k: a tenth of them)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| photographs | run | images/s | of the plain loop in processes | CPU ms an image |\n|---|---|---|---|---|")
    for kind in arguments.kinds:
        count = arguments.images // 10 if kind == "div2k" else arguments.images
        results = measure(kind, count, arguments.workers, arguments.repeats)
        reference, _ = results[f"plain, {arguments.workers} processes"]
        for name, (rate, cpu) in results.items():
            size = f"{KINDS[kind][0]}×{KINDS[kind][1]}"
            print(f"| {kind} {size} | {name} | {rate:.1f} | {rate / reference:.2f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
