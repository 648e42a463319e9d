"""The score table, and metrics/report.html: one file that opens from disk without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from pipeline.core.errors import NOTHING_GAINED, DataError
from pipeline.core.files import write_whole
from pipeline.core.progress import counted
from pipeline.core.tables import text_table
from pipeline.evaluation import plots
from pipeline.evaluation.judge import same_network
from pipeline.evaluation.judge import title as title_of_network

ROWS = (  # label, keys in metrics.json
    ("this decoder", ()),
    ("what the layer holds", ("refined",)),
    ("its first stage, refined", ("floors", "first_stage")),
    ("linear read-out", ("floors", "linear")),
    ("bicubic thumbnail", ("floors", "bicubic")),
    ("mean colour", ("floors", "mean_colour")),
    ("JPEG, equal bytes", ("ceilings", "jpeg")),
)
ELSEWHERE = "is in DVC's cache; to fetch it, run: dvc pull (or dvc repro)"
ENOUGH = 0.9  # fraction of its byte budget above which a JPEG counts as limited by the budget
HEADER = ("", "PSNR dB", "SSIM", "LPIPS")
STRIPS = (
    ("best", "Best reconstructions"),
    ("median", "Median reconstructions"),
    ("worst", "Worst reconstructions"),
    ("channels", "The channels that vary most over one photograph"),
)
ROUTING = ("routing", "The weight of each source by position, from 0 (dark) to the largest")  # if the fusion has maps
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .25em .9em; text-align: right; font-weight: normal }
td:first-child { text-align: left } thead { border-bottom: 1px solid #999 } tbody tr:first-child { font-weight: bold }
img, svg { max-width: 100%; height: auto } pre { font-size: 12px; overflow-x: auto } .note { color: #666 }
</style>
<h1>{{ title }}</h1>
<table>
<thead><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% for heading, figure, picture in sections %}
<h2>{{ heading }}</h2>
{% if figure %}
{{ figure | safe }}
{% endif %}
{% if picture %}
<img alt="{{ heading }}" src="data:image/png;base64,{{ picture }}">
{% endif %}
{% endfor %}
<h2>Protocol</h2>
<details><summary>How these numbers were made</summary><pre>{{ protocol }}</pre></details>
</html>
"""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that evaluate wrote. Raises DataError when it is missing or damaged."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; score a model first: python -m stages evaluate") from None
    except ValueError:
        raise DataError(f"{path} is damaged (not valid JSON); write it again: python -m stages evaluate") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged (no JSON object); write it again: python -m stages evaluate")
    return values


def read_scores(metrics: Path) -> dict[str, Any]:
    """metrics.json of the folder `metrics`. Raises DataError when it is missing, damaged or without scores."""
    path = metrics / "metrics.json"
    scores = read_json(path)
    if not all(isinstance(scores.get(name), dict) and "mean" in scores[name] for name in ("psnr", "ssim")):
        raise DataError(f"{path} holds no scores; write it again: python -m stages evaluate")
    return scores


def read_protocol(metrics: Path) -> dict[str, Any]:
    """protocol.json of the folder `metrics`. Raises DataError when it is missing or damaged."""
    path = metrics / "protocol.json"
    if not path.is_file() and (metrics / "metrics.json").is_file():
        raise DataError(f"{path} {ELSEWHERE}")
    return read_json(path)


def score_table(metrics: Path) -> str:
    """PSNR, SSIM and LPIPS of the evaluation in `metrics`, beside floors and ceilings, as aligned text.

    Scores are in Git, protocol.json in DVC's cache. In a fresh clone, the text shows the scores and the command that
    fetches the protocol.
    """
    scores = read_scores(metrics)
    lines = [text_table(HEADER, score_rows(scores))]
    if not (metrics / "protocol.json").is_file():
        return "\n".join([*lines, f"what was scored: {metrics / 'protocol.json'} {ELSEWHERE}"])
    protocol = read_protocol(metrics)
    notes = [
        *[NOTHING_GAINED] * is_linear_start(scores),
        *_judged(scores, protocol),
        *(f"no {metric}: {reason}" for metric, reason in protocol["not_computed"].items()),
    ]
    return "\n".join([title(protocol), *lines, *notes, *(f"warning: {each}" for each in _warnings(protocol))])


def title(protocol: Mapping[str, Any]) -> str:
    """The scored experiment: `vgg16.block1 → linear · random weights (seed 0) · sample`."""
    blueprint, each = protocol["model"]["blueprint"], _weights_of_sources(protocol)
    same = len(set(each.values())) == 1
    sources = " + ".join(each) if same else " + ".join(f"{name} [{text}]" for name, text in each.items())
    fusion = "" if blueprint["fusion"] == "none" else f" → {blueprint['fusion']} fusion"
    first_stage = f"{protocol['first_stage']['refiner']} → " if "first_stage" in protocol else ""
    after = f" · {next(iter(each.values()))}" if same else ""
    return f"{sources}{fusion} → {first_stage}{blueprint['decoder']}{after} · {protocol['data']['dataset']}"


def weights(protocol: Mapping[str, Any]) -> str:
    """The distinct weights of the sources' networks: `random weights (seed 0)`."""
    return ", ".join(dict.fromkeys(_weights_of_sources(protocol).values()))


def _weights_of_sources(protocol: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: "{kind} weights ({detail})".format(**entry["backbone"]["weights"])
        for name, entry in protocol["features"].items()
    }


def score_rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The table's rows as text: the decoder with its 95 % interval, then refinement, floors and ceiling."""
    for label, path in ROWS:
        entry = scores
        for key in path:
            entry = entry.get(key, {})
        if entry:
            yield label, _cell(entry["psnr"], 2), _cell(entry["ssim"], 4), _cell(entry.get("lpips"), 4)


def write_report(metrics: Path) -> None:
    """Write report.html into `metrics` from the files of `train` and `evaluate` there.

    The file is self-contained, without scripts and links.

    Raises:
        DataError: a file of `evaluate` is missing.
    """
    scores, protocol = read_scores(metrics), read_protocol(metrics)
    plotted, images = metrics / "plots", metrics / "plots" / "images"
    sections = [("Test images", plots.histograms(pd.read_csv(metrics / "per_image.csv"), scores), "")]
    if "refined" in scores:
        figure, picture = plots.refinement(pd.read_csv(images / "refinement.csv")), _base64(images / "refined.png")
        sections.append(("What the layer holds, beside what the decoder gets", figure, picture))
    sections.append(("What survives of each octave", plots.octaves(pd.read_csv(plotted / "octaves.csv")), ""))
    if (metrics / "training.csv").is_file() and len(curves := pd.read_csv(metrics / "training.csv")) > 1:
        sections.append(("Training", plots.training(curves), ""))
    strips = [*STRIPS, *[ROUTING] * (images / f"{ROUTING[0]}.png").is_file()]
    sections += [(heading, "", _base64(images / f"{strip}.png")) for strip, heading in strips]
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True)
    page = environment.from_string(PAGE).render(
        title=title(protocol),
        header=HEADER,
        rows=score_rows(scores),
        notes=_notes(scores, protocol),
        sections=sections,
        protocol=json.dumps(protocol, indent=2, ensure_ascii=False),
    )
    write_whole(metrics / "report.html", page.encode())


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _warnings(protocol: Mapping[str, Any]) -> Iterator[str]:
    if (warning := protocol.get("refinement", {}).get("warning")) is not None:
        yield warning
    networks = protocol.get("perceptual", {})
    if len(networks) == 2 and same_network(networks["loss"], networks["metric"]):
        yield (
            f"features is judged by {title_of_network(networks['metric'])}, the network with which the decoder was "
            "trained; set perceptual.metric.backbone to another"
        )


def _judged(scores: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[str]:
    """Sentences with the score `features` and the networks behind it."""
    networks = {
        name: title_of_network(network) + " with {kind} weights ({detail})".format(**network["backbone"]["weights"])
        for name, network in protocol.get("perceptual", {}).items()
    }
    if "metric" in networks:
        yield f"features {_cell(scores['features'], 4)}, lower is better: the distance in {networks['metric']}."
    if "loss" in networks:
        yield f"The loss in training had the distance in {networks['loss']}."


def is_linear_start(scores: Mapping[str, Any]) -> bool:
    """Whether no epoch was better than the linear start, so that the scores are those of the start."""
    return scores.get("decoder", {}).get("best_epoch") == 0


def _notes(scores: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{counted(scores['images'], 'test image')}; mean [95 % interval]. The decoder has "
        f"{counted(scores['decoder']['parameters'], 'parameter')}; the features take "
        f"{scores['features']['bits_per_pixel']:.4g} bits per pixel, the JPEG "
        f"{scores['ceilings']['jpeg']['bits_per_pixel']:.4g}{_why_less(scores)}."
    )
    if is_linear_start(scores):
        yield NOTHING_GAINED
    yield from _judged(scores, protocol)
    if scores["consistency"] is not None:
        yield (
            "Features of the reconstruction against those of the photograph: cosine {cosine:.4f}, relative error "
            "{relative_error:.4f}.".format(**scores["consistency"])
        )
    if "refined" in scores:
        yield (
            "What the layer holds, at least: {images}, refined by {refiner} through the known network in {budget} "
            "each. That needs the network's weights, and is no decoder's score."
        ).format(
            refiner=protocol["refinement"]["refiner"],
            images=counted(protocol["refinement"]["images"], "test image"),
            budget=counted(protocol["refinement"]["budget"], "evaluation"),
        )
    yield from (f"Warning: {each}" for each in _warnings(protocol))
    for metric, reason in protocol["not_computed"].items():
        yield f"No {metric}: {reason}"


def _why_less(scores: Mapping[str, Any]) -> str:
    """The reason why the JPEG takes clearly fewer bytes than the features, or ""."""
    features, jpeg = scores["features"]["bits_per_pixel"], scores["ceilings"]["jpeg"]["bits_per_pixel"]
    return ": at quality 100, its best, a JPEG has no use for more" if jpeg < ENOUGH * features else ""


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "–"
    if not isinstance(value, Mapping):
        return f"{value:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
