"""How scores were made: conventions, data, weights, versions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from pipeline.evaluation.subject import Subject
from pipeline.images import PreparedData
from pipeline.params import Params
from pipeline.protocol import CONVENTIONS
from pipeline.runtime import provenance
from pipeline.stores import FeatureStore

LIBRARY = Path(__file__).parents[1]


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
            "dataset": data.manifest["dataset"],
            "fingerprint": data.fingerprint,
            "skipped": data.manifest["skipped"],
        },
        "features": {str(source): _features(store) for source, store in sources},
        "model": dict(subject.description),
        "lpips_weights": None if subject.perceptual is None else subject.perceptual.sha256,
        "bootstrap": {"resamples": params.evaluate.bootstrap, "seed": params.seed},
        "code": code_digest(),
        "runtime": {key: value for key, value in provenance(device).items() if key != "threads"},
    }


def code_digest(library: Path = LIBRARY) -> str:
    """SHA-256 over every Python file of the library, with its name.

    Not the git commit: DVC keeps outputs by their inputs, and a commit changes with every unrelated edit.
    """
    digest = hashlib.sha256()
    for path in sorted(library.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(library).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _features(store: FeatureStore) -> dict[str, Any]:
    return {
        "backbone": store.manifest.facts["backbone"],
        "fingerprint": store.fingerprint,
        "shape": str(store.shape),
        "dtype": store.dtype,
    }
