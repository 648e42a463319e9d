"""`python -m benchmarks.store_types`: what the stored type of the features costs, down to the reconstruction.

For every type the sample photographs are extracted, decoders are fitted on the features as stored, and the test
photographs are reconstructed from the features as stored.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from pipeline.backbones.backbone import load_backbone
from pipeline.core.params import Params, StoreParams, load_params
from pipeline.core.paths import Paths
from pipeline.core.runtime import choose_device
from pipeline.core.sources import Inputs
from pipeline.data.preparation.run import prepare
from pipeline.extraction.run import extract
from pipeline.loading.loader import CachedFeatures
from pipeline.metrics.scores import psnr
from pipeline.models.common.inverter import load_inverter
from pipeline.models.common.prior import fit_prior
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData
from pipeline.training.run import train

DTYPES = get_args(StoreParams.model_fields["dtype"].annotation)


def reconstruct(root: Path, params: Params, data: PreparedData, device: torch.device) -> tuple[float, float]:
    """Mean test PSNR in dB, and megabytes of the store."""
    store = open_store(root / "features" / params.backbone / params.layer)
    paths = Paths.below(root)
    fit_prior(data, paths.prior)
    train(params, data, paths, device)
    inverter = load_inverter(paths.models, device).eval()
    rows, found = data.rows("test"), []
    with CachedFeatures(data, Inputs((store,)), device, "never") as cached, torch.inference_mode():
        for batch in cached.batches(np.array_split(rows, -(-len(rows) // 8))):
            found.append(psnr(inverter(batch.inputs), batch.targets))
    return float(torch.cat(found).mean()), store.bytes / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="vgg16.block1")
    parser.add_argument("--decoders", nargs="+", default=["linear", "transposed_conv"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of params.yaml")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, (backbone, layer) = choose_device(options.device), options.source.split(".", 1)
    changes = [f"backbone={backbone}", f"layer={layer}", f"backbones.{backbone}.layers=[{layer}]", *options.set]
    print(f"| {options.source} stored as | MB | {' | '.join(f'{name}, dB' for name in options.decoders)} |")
    print("| --- " * (2 + len(options.decoders)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(load_params(overrides=changes), root / "prepared", root / "work")
        data = PreparedData.open(root / "prepared")
        for dtype in DTYPES:
            scores = []
            for decoder in options.decoders:
                params = load_params(overrides=[*changes, f"store.dtype={dtype}", f"decoder={decoder}"])
                network = load_backbone(backbone, params.backbone_params(backbone), device)
                output = root / "features" / backbone
                extract(network, data, output, params.store, params.extract, device, root / "work")
                score, size = reconstruct(root, params, data, device)
                scores.append(f"{score:.2f}")
            print(f"| {dtype} | {size:.0f} | {' | '.join(scores)} |", flush=True)


if __name__ == "__main__":
    main()
