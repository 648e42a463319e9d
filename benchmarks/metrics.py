"""`python -m benchmarks.metrics`: PSNR and SSIM of many images, beside a scikit-image loop on the same cores.

The loop also runs as one process for each core, its fastest form. `--memory` measures memory instead: the peak
resident memory of a process that scores N pairs, and of one that scores four times as many.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.core.tables import text_table
from pipeline.evaluation.scoring import References, Tally
from pipeline.metrics.scores import score

EDGE = 224
MORE = 4  # times as many pairs, which must take no more memory
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]  # (3, H, W) each


def photographs(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`count` crops of a photograph and noisy versions of them, (B, 3, H, W) float32 in [0, 1]."""
    random = np.random.default_rng(seed)
    image = data.astronaut().transpose(2, 0, 1).astype(np.float32) / 255
    corners = random.integers(0, image.shape[1] - EDGE, (count, 2))
    targets = np.stack([image[:, top : top + EDGE, left : left + EDGE] for top, left in corners])
    noise = random.normal(0, 0.05, targets.shape).astype(np.float32)
    return np.clip(targets + noise, 0, 1), targets


def with_scikit_image(pair: Pair) -> tuple[float, float]:
    prediction, target = pair
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    similarity = structural_similarity(target, prediction, channel_axis=0, **settings)
    return float(peak_signal_noise_ratio(target, prediction, data_range=1.0)), float(similarity)


def best_rates(images: int, runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Images a second of each run: the best of `repeats` taken in turn, so that a busy moment hits all alike."""
    seconds = dict.fromkeys(runs, math.inf)
    for _ in range(repeats + 1):  # the first round warms up and can only be slower
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {name: images / value for name, value in seconds.items()}


def scikit_loop(pairs: Iterable[Pair]) -> list[tuple[float, float]]:
    return [with_scikit_image(pair) for pair in pairs]


def ours(predictions: torch.Tensor, targets: torch.Tensor, batch_size: int) -> dict[str, torch.Tensor]:
    """Every number of every image, streamed in batches."""
    parts = [
        score(predictions[start : start + batch_size], targets[start : start + batch_size])
        for start in range(0, len(targets), batch_size)
    ]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def peak_of_scoring(images: int, batch_size: int, threads: int) -> int:
    """Peak resident MiB of this process once it has scored `images` pairs as evaluate does, each batch made anew."""
    torch.set_num_threads(threads)
    tally = Tally(References(colour=torch.full((3,), 0.5), grid=(28, 28), feature_bytes=20_000), images)
    for start in range(0, images, batch_size):
        predictions, targets = photographs(min(batch_size, images - start), seed=start)
        crops = (targets * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        tally.add(torch.from_numpy(predictions), torch.from_numpy(targets), np.ascontiguousarray(crops))
    assert len(tally.columns()["psnr"]) == images
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "peak memory is read from /proc/self/status, which only Linux has"
    return int(found[1]) // 1024


def print_memory(images: int, batch_size: int, threads: int) -> None:
    print(f"scoring pairs of {EDGE}×{EDGE} pixels, {batch_size} at a time, each count in a process of its own")
    for count in (images, MORE * images):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"{count:8,} pairs: peak {pool.apply(peak_of_scoring, (count, batch_size, threads))} MiB")


def print_rates(images: int, batch_size: int, threads: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    predictions, targets = photographs(images)
    pairs: list[Pair] = list(zip(predictions, targets, strict=True))
    with multiprocessing.get_context("spawn").Pool(threads) as pool:
        loop, processes = "scikit-image, loop", f"scikit-image, {threads} processes"
        runs: dict[str, Callable[[], object]] = {
            loop: partial(scikit_loop, pairs),
            processes: partial(pool.map, with_scikit_image, pairs, chunksize=4),
        }
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            x, y = (torch.from_numpy(side).to(device) for side in (predictions, targets))
            runs[f"pipeline.metrics.scores, {device}"] = partial(ours, x, y, batch_size)
        rates = best_rates(images, runs, repeats)
    print(f"{images} images of {EDGE}×{EDGE} pixels, {threads} cores, best of {repeats}")
    ratios = ([f"{value / rates[other]:.2f}" for other in (loop, processes)] for value in rates.values())
    rows = ([name, f"{value:.1f}", *ratio] for (name, value), ratio in zip(rates.items(), ratios, strict=True))
    print(text_table(["", "images/s", "× loop", "× processes"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="cores for either side")
    parser.add_argument("--memory", action="store_true", help="peak memory of scoring, instead of speed (Linux)")
    options = parser.parse_args()
    if options.memory:
        print_memory(options.images, options.batch, options.threads)
    else:
        print_rates(options.images, options.batch, options.threads, options.repeats)


if __name__ == "__main__":
    main()
