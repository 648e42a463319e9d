"""Conventions of scores, and whether two scores may be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.judge import title
from pipeline.metrics.table import METRICS, all_metrics

CONVENTIONS = {
    "images": "RGB, float32 in [0, 1], clamped, no border crop; scored one by one, then averaged",
    **{name: metric.convention for name, metric in all_metrics().items() if metric.convention},
    "std": "population standard deviation over the images",
    "low, high": "95 % percentile cluster bootstrap of the mean, seeded: photographs drawn, each with all its images",
    "mean_colour": "every pixel the mean colour of the training images",
    "bicubic": "antialiased bicubic down to the largest feature grid, bicubic up",
    "linear": "the closed-form decoder on the same features",  # changing a word makes older scores incomparable
    "jpeg": "Pillow JPEG 4:4:4, optimised tables, the highest quality that fits the bytes of the stored features",
    "consistency": "features of the reconstruction against the stored ones: cosine; norm of the difference over norm",
    "survives": "1 - energy of the error / energy of the image, by octave, Hann window",
}
COMPARABLE = ("conventions", "test_images", "test_pixels", "lpips_weights")  # keys of protocol.json that must be equal


def identity(protocol: Mapping[str, Any]) -> int:
    """A number that is equal if scores may be compared; otherwise `dvc metrics diff` shows a difference."""
    shared = json.dumps({key: protocol[key] for key in COMPARABLE}, sort_keys=True)
    return int(hashlib.sha256(shared.encode()).hexdigest()[:7], 16)


def differences(first: Mapping[str, Any], second: Mapping[str, Any], metric: str = "psnr") -> list[str]:
    """The reasons why scores by `metric` under two protocols cannot be compared: each key with its difference."""
    reasons = [
        f"{key} ({_contrast(first.get(key), second.get(key))})"
        for key in COMPARABLE
        if first.get(key) != second.get(key)
    ]
    judges = [protocol.get("perceptual", {}).get("metric") for protocol in (first, second)]
    if METRICS.get(metric).judged and judges[0] != judges[1]:
        names = ("no network" if judge is None else title(judge) for judge in judges)
        reasons.append(f"{metric} is judged by {' and by '.join(names)}")
    return reasons


def _contrast(first: Any, second: Any) -> str:
    """Both values; for two tables, the keys of the entries that differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
        return "not the same: " + "; ".join(keys)
    return f"{_short(first)} against {_short(second)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 16 else text[:12] + "…"
