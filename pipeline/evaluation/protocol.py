"""The record of how scores were computed: conventions, data, weights, versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.core.code import STAGES, digest
from pipeline.core.params import Params
from pipeline.core.runtime import provenance, source_commit
from pipeline.evaluation.conventions import CONVENTIONS
from pipeline.evaluation.subject import Subject
from pipeline.stores.prepared import PreparedData


def describe(
    params: Params,
    data: PreparedData,
    subject: Subject,
    photographs: Sequence[str],
    pixels: str,
    device: torch.device,
) -> dict[str, Any]:
    """The content of protocol.json.

    Args:
        photographs: the photograph of each test image.
        pixels: SHA-256 of the test images' pixels, in order.
    """
    stores = subject.stores
    return {
        "conventions": CONVENTIONS,
        "test_images": len(photographs),
        "test_pixels": pixels,
        "not_computed": dict(subject.missing),
        "data": {
            "dataset": data.manifest["dataset"],
            "fingerprint": data.fingerprint,
            "skipped": data.manifest["skipped"],
        },
        "features": {
            str(store.source): {
                "backbone": store.manifest.facts["backbone"],
                "fingerprint": store.fingerprint,
                "shape": str(store.shape),
                "dtype": store.dtype,
            }
            for store in stores.features
        },
        **({} if stores.image is None else {"first_stage": stores.image.manifest.facts["backbone"]["refined"]}),
        "model": dict(subject.description),
        "lpips_weights": None if subject.perceptual is None else subject.perceptual.sha256,
        **({"perceptual": subject.distances} if subject.distances else {}),
        "bootstrap": {
            "resamples": params.evaluate.bootstrap,
            "seed": params.seed,
            "photographs": len(set(photographs)),
        },
        "code": {"commit": source_commit(), "sha256": digest(*(f"stages.{stage}" for stage in STAGES))},
        "runtime": {key: value for key, value in provenance(device).items() if key != "threads"},
    }
