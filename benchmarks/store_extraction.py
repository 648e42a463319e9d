"""Extraction beside the bare forward pass, epochs beside those with the encoder in the loop, and memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.bars import Bar, Line, against, seconds, side_by_side
from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.core.params import ExtractParams, load_params
from pipeline.core.sources import ImageSize, Inputs
from pipeline.data.preparation.run import prepare
from pipeline.extraction.run import extract
from pipeline.loading.loader import CachedFeatures
from pipeline.models.common.decoder import build_decoder
from pipeline.stores.encoding import rgb
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

BATCH = 16
PARAMS = load_params()


def sample(root: Path) -> PreparedData:
    """The embedded photographs, prepared as by default."""
    prepare(PARAMS, root / "prepared", root / "work")
    return PreparedData.open(root / "prepared")


def vgg16(layers: tuple[str, ...], device: torch.device) -> Backbone:
    return load_backbone("vgg16", PARAMS.backbone_params("vgg16"), device, layers).to(memory_format=torch.channels_last)


def extraction(
    root: Path, data: PreparedData, layers: tuple[str, ...], precision: str, device: torch.device, rounds: int
) -> list[Line]:
    """Rows a second of `extract`, against the backbone alone on the same batches, which lie ready on the device."""
    backbone = vgg16(layers, device)
    settings = ExtractParams.model_validate({"batch_size": BATCH, "precision": precision})
    plan = [np.arange(first, min(first + BATCH, len(data))) for first in range(0, len(data), BATCH)]
    images = [rgb(torch.from_numpy(data.crops(rows)).to(device)) for rows in plan]

    def bare() -> None:
        with torch.inference_mode():
            for batch in images:
                backbone.compute(batch, precision)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def whole() -> None:
        shutil.rmtree(root / "timed", ignore_errors=True)
        extract(backbone, data, root / "timed", PARAMS.store, settings, device, root / "work")

    runs: dict[str, Callable[[], float]] = {
        "bare forward": lambda: len(data) / seconds(bare),
        "extraction": lambda: len(data) / seconds(whole),
    }
    found = side_by_side(runs, rounds)
    name = f"extraction of vgg16 {'+'.join(layers)} in {precision} on {device.type}"
    value = f"{median(found['extraction']):.1f} of {median(found['bare forward']):.1f} rows/s"
    return [Line(name, value, against(found["extraction"], found["bare forward"]), Bar(at_least=0.9))]


def extract_once(root: Path, data: PreparedData, device: torch.device) -> None:
    """features/block1, which everything else reads."""
    settings = ExtractParams(batch_size=BATCH, precision="fp32")
    extract(vgg16(("block1",), device), data, root / "features", PARAMS.store, settings, device, root / "work")


def exact_features(data: PreparedData, device: torch.device) -> Tensor:
    """vgg16.block1 of 32 rows in float32, on the CPU."""
    with torch.inference_mode():
        images = rgb(torch.from_numpy(data.crops(np.arange(32))).to(device))
        return vgg16(("block1",), device)(images)["block1"].cpu()


def epochs(root: Path, data: PreparedData, device: torch.device, rounds: int) -> list[Line]:
    """An epoch of transposed_conv on vgg16.block1 from its store, and with the encoder in it."""
    store, backbone = open_store(root / "features/block1"), vgg16(("block1",), device)
    options = PARAMS.model_copy(update={"decoder": "transposed_conv"}).decoder_options
    decoder = build_decoder("transposed_conv", options, store.shape, ImageSize(data.crop, data.crop))
    decoder = decoder.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-4)
    rows = np.random.default_rng(0).permutation(data.rows("train"))
    plan = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]

    def step(features: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(decoder(features), targets).backward()
        optimizer.step()

    def encoder_in_the_loop() -> None:
        for rows in plan:
            images = rgb(torch.from_numpy(data.crops(rows)).to(device))
            with torch.inference_mode():
                features = backbone(images)["block1"]
            step(features.clone(), images)

    waiting: list[float] = []  # of the ring and of resident features, in turn

    def cached(resident: str) -> float:
        with CachedFeatures(data, Inputs((store,)), device, resident) as source:  # type: ignore[arg-type]

            def epoch() -> None:
                for batch in source.batches(plan):
                    (features,) = batch.inputs.features
                    step(features, batch.targets)
                if device.type == "cuda":
                    torch.cuda.synchronize()

            spent = seconds(epoch)
            waiting.append(source.waited / spent)
        return 1 / spent

    found = side_by_side(
        {
            "encoder": lambda: 1 / seconds(encoder_in_the_loop),
            "ring": lambda: cached("never"),
            "resident": lambda: cached("always"),
        },
        rounds,
    )
    encoder = found.pop("encoder")
    speeds = [
        Line(
            f"epoch from the cache ({name}) / encoder in the loop, {device.type}",
            f"{1 / median(values):.2f} of {1 / median(encoder):.2f} s",
            against(values, encoder),
            Bar(at_least=1.5),
        )
        for name, values in found.items()
    ]
    waits = [
        Line(f"share of an epoch spent waiting for data ({name})", "", median(waiting[first::2]), Bar(at_most=0.05))
        for name, first in (("ring", 2), ("resident", 3))  # the first round warms up
    ]
    return [*speeds, *waits]


def memory() -> list[Line]:
    """Peak resident memory of a process that extracts 1,000 rows, and of one that extracts 10,000."""
    peaks = []
    for rows in (1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.store_extraction", folder, str(rows)]
            peaks.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    value = f"{peaks[1] / 1000:,.0f} of {peaks[0] / 1000:,.0f} MB"
    return [Line("peak memory of extracting 10,000 rows / 1,000 rows", value, peaks[1] / peaks[0], Bar(at_most=1.1))]


class Synthetic:
    """Any number of rows of noise, the same whenever they are asked for."""

    def __init__(self, rows: int, crop: int) -> None:
        self.crop, self._rows, self.root = crop, rows, Path("synthetic")
        self.fingerprint = f"{rows} rows of noise"

    def __len__(self) -> int:
        return self._rows

    def rows(self, split: str) -> np.ndarray:
        return np.arange(self._rows if split == "train" else 0)

    def crops(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        for row, target in zip(rows, out, strict=True):
            target[...] = np.random.default_rng(row).integers(0, 256, target.shape, dtype=np.uint8)
        return out

    def forget(self) -> None:
        """Nothing is mapped."""


def main(folder: str, rows: str) -> None:
    """Extract and print the peak of this process's memory in kilobytes.

    From /proc: the resource module's number would include the process that started this one.
    """
    data = Synthetic(int(rows), crop=64)
    backbone = load_backbone("resnet34", PARAMS.backbone_params("resnet34"), torch.device("cpu"), ("layer1", "layer2"))
    root = Path(folder)
    store = PARAMS.store.model_copy(update={"shard_megabytes": 8})
    settings = ExtractParams(batch_size=BATCH, precision="fp32")
    extract(backbone, data, root / "features", store, settings, torch.device("cpu"), root / "work")  # type: ignore[arg-type]
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(status["VmHWM"].split()[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
