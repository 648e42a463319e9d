"""What a person reads: the score table, and metrics/report.html, one file that opens from disk without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROWS = (  # label, where it stands in metrics.json
    ("this decoder", ()),
    ("linear, closed form", ("floors", "linear")),
    ("bicubic thumbnail", ("floors", "bicubic")),
    ("mean colour", ("floors", "mean_colour")),
    ("JPEG, equal bytes", ("ceilings", "jpeg")),
)


def read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def score_table(metrics: Path) -> str:
    """PSNR, SSIM and LPIPS of the evaluation in `metrics`, beside floors and ceilings, as aligned text."""
    scores, protocol = read_json(metrics / "metrics.json"), read_json(metrics / "protocol.json")
    rows = [("", "PSNR dB", "SSIM", "LPIPS"), *score_rows(scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[k]:>{widths[k]}}" for k in (1, 2, 3)) for row in rows]
    notes = [f"no {metric}: {reason}" for metric, reason in protocol["not_computed"].items()]
    return "\n".join([*lines, *notes])


def score_rows(scores: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str]]:
    """The table's rows as text: the decoder with its 95 % interval, then what it is to be held against."""
    for label, path in ROWS:
        entry = scores
        for key in path:
            entry = entry.get(key, {})
        if entry:
            yield label, _cell(entry["psnr"], 2), _cell(entry["ssim"], 4), _cell(entry.get("lpips"), 4)


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "–"
    if not isinstance(value, Mapping):
        return f"{value:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def write_report(metrics: Path) -> None:
    """Write report.html into `metrics` from the files that evaluate left there."""
    (metrics / "report.html").write_text(f"<!doctype html><pre>{score_table(metrics)}</pre>\n", encoding="utf-8")
