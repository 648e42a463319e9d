"""`python -m benchmarks.decoders`: every decoder on several sources: PSNR, SSIM, parameters, seconds of `train`.

Types the stages' own commands, one after another, in a folder of their own. A row that --out already holds is not
measured again, so that a stopped run goes on, and rows with other settings (--with) join the same table. For your own
photographs: --set dataset=folder datasets.folder.root=PHOTOGRAPHS (an absolute path).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.bars import seconds
from pipeline.core.tables import markdown_table
from pipeline.models.common.decoder import DECODERS
from pipeline.stores.prepared import PreparedData

SOURCES = ("vgg16.block1", "vit_small.block1", "resnet34.layer1", "vgg16.block3")
# attention among 12,544 positions: hours of training on a CPU, minutes a step
UNASKED = {("vgg16.block1", "attention"), ("vgg16.block1", "patch_transformer")}
DEFAULTS = "defaults"
KEY = ["source", "decoder", "settings"]
HEADER = ["source", "decoder", "settings", "parameters", "seconds of train", "PSNR dB", "SSIM", "bicubic dB"]


class Experiments:
    """Experiments on the same photographs, one at a time, in the folder `root`."""

    def __init__(self, root: Path, sources: list[str], settings: list[str], device: str) -> None:
        self._root, self._device, self._settings = root, device, settings
        self._layers: dict[str, list[str]] = {}
        for source in sources:
            backbone, layer = source.split(".", 1)
            self._layers.setdefault(backbone, []).append(layer)
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy("params.yaml", root)

    def extract(self) -> str:
        """All features that the experiments need; the fingerprint of the photographs."""
        self._stage("prepare")
        self._stage("prior")
        for backbone in self._layers:
            self._stage("extract", "--backbone", backbone, "--device", self._device)
        return PreparedData.open(self._root / "data/prepared").fingerprint[:12]

    def measure(self, source: str, decoder: str, extra: list[str]) -> dict[str, Any]:
        """One row of the table: `decoder` on `source`, with the settings `extra` in params.yaml."""
        spent = self.train(source, decoder, extra)
        self._stage("evaluate", *self._options(source, decoder, extra))
        scores = json.loads((self._root / "metrics/metrics.json").read_text())
        return {
            "source": source,
            "decoder": decoder,
            "settings": " ".join(extra) or DEFAULTS,
            "parameters": scores["decoder"]["parameters"],
            "seconds": round(spent, 1),
            "psnr": scores["psnr"]["mean"],
            "low": scores["psnr"]["low"],
            "high": scores["psnr"]["high"],
            "ssim": scores["ssim"]["mean"],
            "bicubic": scores["floors"]["bicubic"]["psnr"],
        }

    def train(self, source: str, decoder: str, extra: list[str]) -> float:
        """Seconds of the command from start to end."""
        return seconds(lambda: self._stage("train", *self._options(source, decoder, extra)))

    def _options(self, source: str, decoder: str, extra: list[str]) -> list[str]:
        backbone, layer = source.split(".", 1)
        chosen = [f"backbone={backbone}", f"layer={layer}", f"decoder={decoder}", *extra]
        return ["--device", self._device, *_sets(chosen)]

    def _stage(self, name: str, *options: str) -> None:
        layers = [f"backbones.{backbone}.layers=[{','.join(names)}]" for backbone, names in self._layers.items()]
        subprocess.run(
            [sys.executable, "-m", "stages", name, *_sets([*self._settings, *layers]), *options],
            cwd=self._root,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def _sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def markdown(rows: pd.DataFrame) -> str:
    """The table, source by source, the best decoder first."""
    order = {source: place for place, source in enumerate(dict.fromkeys([*SOURCES, *rows["source"]]))}
    ordered = rows.sort_values("psnr", ascending=False).sort_values("source", key=lambda s: s.map(order), kind="stable")
    return markdown_table(HEADER, map(_cells, ordered.to_dict("records")))


def _cells(row: dict[Any, Any]) -> list[str]:
    settings = row["settings"] if row["settings"] == DEFAULTS else f"`{row['settings']}`"
    psnr = f"{row['psnr']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    return [
        *(row["source"], f"`{row['decoder']}`", settings, f"{row['parameters']:,}", f"{row['seconds']:.0f}"),
        *(psnr, f"{row['ssim']:.4f}", f"{row['bicubic']:.2f}"),
    ]


def run(options: argparse.Namespace) -> pd.DataFrame:
    """Measure what `options.out` lacks, keeping each row as soon as it is there; the whole table."""
    rows = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["data", *KEY])
    present = {tuple(key) for key in rows[KEY].to_numpy()}
    settings = " ".join(options.extra) or DEFAULTS
    asked = options.only or [pair for pair in product(options.sources, DECODERS.names()) if pair not in UNASKED]
    missing = [pair for pair in asked if (*pair, settings) not in present]
    with tempfile.TemporaryDirectory() as folder:
        sources = list(dict.fromkeys([*options.sources, *(source for source, _ in asked)]))
        experiments = Experiments(options.root or Path(folder), sources, options.set, options.device)
        data = experiments.extract() if missing else ""
        if missing and not set(rows["data"]) <= {data}:
            sys.exit(f"{options.out} is of other photographs; give this table another file: --out")
        for source, decoder in missing:
            row = {"data": data, **experiments.measure(source, decoder, options.extra)}
            rows = pd.DataFrame([*rows.to_dict("records"), row])
            options.out.parent.mkdir(parents=True, exist_ok=True)
            rows.to_csv(options.out, index=False, float_format="%.6g")
    return rows


def source_and_decoder(text: str) -> tuple[str, str]:
    """`vgg16.block1:linear` → its source and decoder."""
    source, _, decoder = text.partition(":")
    if decoder not in DECODERS.names():
        raise argparse.ArgumentTypeError(f"{text}: must be SOURCE:DECODER, with one of {', '.join(DECODERS.names())}")
    return source, decoder


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), metavar="SOURCE", help="BACKBONE.LAYER")
    parser.add_argument(
        "--only",
        nargs="+",
        type=source_and_decoder,
        metavar="SOURCE:DECODER",
        help="default: all, but for attention and patch_transformer on vgg16.block1, which take hours on a CPU",
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides for all: the photographs")
    parser.add_argument("--with", nargs="*", default=[], dest="extra", metavar="KEY=VALUE", help="named in the table")
    parser.add_argument("--out", type=Path, default=Path(".work/decoders.csv"))
    parser.add_argument("--root", type=Path, help="keeps photographs and features here; default: a temporary folder")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(markdown(run(parse())))
