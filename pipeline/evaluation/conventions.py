"""When scores may be compared: what they mean, and whether they are of the same pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.metrics.perceptual import title
from pipeline.metrics.table import METRICS, all_metrics

CONVENTIONS = {
    "images": "RGB, float32 in [0, 1], clamped, no border crop; scored one by one, then averaged",
    **{name: metric.convention for name, metric in all_metrics().items() if metric.convention},
    "std": "population standard deviation over the images",
    "low, high": "95 % percentile cluster bootstrap of the mean, seeded: photographs drawn, each with all its images",
    "mean_colour": "every pixel the mean colour of the training images",
    "bicubic": "antialiased bicubic down to the largest feature grid, bicubic up",
    "linear": "the closed-form decoder on the same features",  # other words: other scores
    "jpeg": "Pillow JPEG 4:4:4, optimised tables, the highest quality that fits the bytes of the stored features",
    "consistency": "features of the reconstruction against the stored ones: cosine; norm of the difference over norm",
    "survives": "1 - energy of the error / energy of the image, by octave, Hann window",
}
COMPARABLE = ("conventions", "test_images", "test_pixels", "lpips_weights")  # what two scores must share to be compared


def identity(protocol: Mapping[str, Any]) -> int:
    """A number that is equal when scores may be compared: `dvc metrics diff` shows it when they may not."""
    shared = json.dumps({key: protocol[key] for key in COMPARABLE}, sort_keys=True)
    return int(hashlib.sha256(shared.encode()).hexdigest()[:7], 16)


def differences(first: Mapping[str, Any], second: Mapping[str, Any], metric: str = "psnr") -> list[str]:
    """For each reason why scores by `metric` under two protocols cannot be compared, its name, and what differs."""
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
    """Both values; of two tables, whose beginnings would look alike, the entries that are not the same."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
        return "not the same: " + "; ".join(keys)
    return f"{_short(first)} against {_short(second)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 16 else text[:12] + "…"
