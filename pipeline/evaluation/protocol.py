"""How scores were made: conventions, data, weights, versions. Scores of different protocols are not comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.evaluation.subject import Subject
from pipeline.images import PreparedData
from pipeline.metrics import PSNR_CAP
from pipeline.params import Params
from pipeline.runtime import provenance
from pipeline.stores import FeatureStore

CONVENTIONS = {
    "images": "RGB, float32 in [0, 1], clamped, no border crop; scored one by one, then averaged",
    "psnr": f"10 log10(1 / MSE) dB over all pixels and channels; identical images count as {PSNR_CAP:g}",
    "ssim": "Wang et al. 2004: Gaussian 11x11, sigma 1.5, valid region, population covariance, mean over channels",
    "lpips": "v0.1, AlexNet, inputs scaled to [-1, 1]",
    "std": "population standard deviation over the images",
    "low, high": "95 % percentile bootstrap of the mean over the images, seeded",
    "mean_colour": "every pixel the mean colour of the training images",
    "bicubic": "antialiased bicubic down to the largest feature grid, bicubic up",
    "linear": "the closed-form decoder on the same features",
    "jpeg": "Pillow JPEG 4:4:4, optimised tables, the highest quality that fits the bytes of the stored features",
    "consistency": "features of the reconstruction against the stored ones: cosine; norm of the difference over norm",
    "survives": "1 - energy of the error / energy of the image, by octave, Hann window",
}
EVALUATION = ("baselines", "consistency", "scoring", "spectrum")
SCORING = ("metrics.py", "similarity.py", *(f"evaluation/{name}.py" for name in EVALUATION))
COMPARABLE = ("conventions", "test_images", "test_pixels")  # what two scores must share to be compared


def describe(params: Params, data: PreparedData, subject: Subject, pixels: str, device: torch.device) -> dict[str, Any]:
    """The content of protocol.json: what the numbers mean, and what they were made of.

    `pixels` is the SHA-256 of the test photographs' pixels in order.
    """
    sources = zip(subject.inverter.sources, subject.stores, strict=True)
    return {
        "conventions": CONVENTIONS,
        "test_images": len(data.rows("test")),
        "test_pixels": pixels,
        "not_computed": dict(subject.missing),
        "data": {
            "dataset": params.dataset,
            "fingerprint": data.fingerprint,
            "skipped": data.manifest["skipped"],
        },
        "features": {str(source): _features(store) for source, store in sources},
        "model": dict(subject.description),
        "lpips_weights": None if subject.perceptual is None else subject.perceptual.sha256,
        "bootstrap": {"resamples": params.evaluate.bootstrap, "seed": params.seed},
        "scoring_code": scoring_digest(),
        "runtime": {key: value for key, value in provenance(device).items() if key != "threads"},
    }


def scoring_digest() -> str:
    """SHA-256 over the files that define the scores.

    Not the git commit: DVC keeps outputs by their inputs, and a commit changes with every unrelated edit.
    """
    digest = hashlib.sha256()
    for name in SCORING:
        digest.update((Path(__file__).parent.parent / name).read_bytes())
    return digest.hexdigest()


def identity(protocol: Mapping[str, Any]) -> int:
    """A number that is equal when scores may be compared: `dvc metrics diff` shows it when they may not."""
    shared = json.dumps({key: protocol[key] for key in COMPARABLE}, sort_keys=True)
    return int(hashlib.sha256(shared.encode()).hexdigest()[:7], 16)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """For each reason why scores under two protocols cannot be compared, its name and both values."""
    return [
        f"{key} ({_short(first.get(key))} against {_short(second.get(key))})"
        for key in COMPARABLE
        if first.get(key) != second.get(key)
    ]


def _features(store: FeatureStore) -> dict[str, Any]:
    return {
        "backbone": store.manifest.facts["backbone"],
        "fingerprint": store.fingerprint,
        "shape": str(store.shape),
        "dtype": store.dtype,
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 16 else text[:12] + "…"
