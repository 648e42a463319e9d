"""report.html: one file, no network; the score table; the figures; the page of DVC's own plots."""

import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from forks import commands
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from ruamel.yaml import YAML
from small_experiment import CPU, experiment
from typer.testing import CliRunner

from pipeline.core.errors import DataError
from pipeline.evaluation import plots
from pipeline.evaluation.baselines import thumbnail
from pipeline.evaluation.report import read_json, score_rows, score_table, title, write_report
from pipeline.evaluation.run import evaluate
from pipeline.metrics.scores import psnr

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".dvc" / "plots_page.html"


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = experiment("transposed_conv")
    folder = tmp_path_factory.mktemp("metrics")
    evaluate(made.params, made.data(), made.paths(metrics=folder), CPU)
    shutil.copy(made.paths().curves, folder / "training.csv")
    write_report(folder)
    return folder


class References(HTMLParser):
    """Everything a browser would load, and the tags that were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = {"src", "data", "srcset", "poster", "xlink:href"} | (
            {"href"} if tag in ("link", "use", "image") else set()
        )
        self.loads += [value or "" for name, value in attrs if name in names]


def test_the_report_loads_nothing(metrics: Path) -> None:
    page = References()
    text = (metrics / "report.html").read_text()
    page.feed(text)
    outside = [load for load in page.loads if not load.startswith(("data:image/png;base64,", "#"))]
    assert outside == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert page.tags.count("img") == 4
    assert page.tags.count("svg") == 3


def test_the_report_shows_the_scores_and_the_weights(metrics: Path) -> None:
    text = (metrics / "report.html").read_text()
    scores = read_json(metrics / "metrics.json")
    assert "<h1>vgg16.block1 → transposed_conv · random weights (seed 0) · folder</h1>" in text
    for row in score_rows(scores):
        assert all(f"<td>{cell}</td>" in text for cell in row)
    assert read_json(metrics / "protocol.json")["test_pixels"] in text


@pytest.mark.parametrize(("features", "jpeg", "said"), [(320, 13.58, True), (16, 15.7, False)])
def test_why_a_jpeg_takes_fewer_bytes_than_it_may(
    metrics: Path, tmp_path: Path, features: float, jpeg: float, said: bool
) -> None:
    shutil.copytree(metrics, tmp_path / "changed")
    scores = read_json(metrics / "metrics.json")
    scores["features"]["bits_per_pixel"] = features
    scores["ceilings"]["jpeg"]["bits_per_pixel"] = jpeg
    (tmp_path / "changed/metrics.json").write_text(json.dumps(scores))
    write_report(tmp_path / "changed")
    assert ("quality 100" in (tmp_path / "changed/report.html").read_text()) == said


def test_a_strip_shows_the_floors_beside_the_reconstruction(metrics: Path) -> None:
    strip = np.asarray(Image.open(metrics / "plots/images/best.png"))
    tiles = [strip[20 : 20 + 192 : 3, left : left + 192 : 3] for left in range(6, 6 * 198, 198)]  # 64 pixels, enlarged
    original, decoder, bicubic, linear = (
        torch.from_numpy(tile / 255).permute(2, 0, 1)[None].float() for tile in tiles[:4]
    )
    torch.testing.assert_close(bicubic, thumbnail(original, (32, 32)), atol=0.6 / 255, rtol=0)
    best = pd.read_csv(metrics / "per_image.csv").sort_values("psnr", ascending=False).iloc[0]
    found = [psnr(image, original).item() for image in (decoder, bicubic, linear)]
    expected = [best["psnr"], best["bicubic_psnr"], best["linear_psnr"]]
    assert found == pytest.approx(expected, abs=0.1)  # the picture has 8 bits, which is 0.065 dB at 40 dB


def test_references_are_named_in_a_legend_and_never_over_each_other() -> None:
    """Floors that lie together, as on a good layer, were written over each other."""
    close = {"psnr": 30.0, "ssim": 0.9}
    scores = {"floors": {"mean_colour": close, "bicubic": close, "linear": close}, "ceilings": {"jpeg": close}}
    figure = Figure((9, 3.4), layout="constrained")
    place = figure.subplots(1, 2)[0]
    plots._references(place, scores, "psnr")
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in place.get_legend().get_texts()]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    for colour in (plots.NOTE, *(entry[3] for entry in plots.REFERENCES)):
        assert _contrast_with_white(colour) > (7 if colour == plots.NOTE else 3)  # WCAG: letters, and lines


def _contrast_with_white(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (float(np.dot(linear, (0.2126, 0.7152, 0.0722))) + 0.05)


def test_equal_files_give_an_equal_report(metrics: Path, tmp_path: Path) -> None:
    shutil.copytree(metrics, tmp_path / "again")
    (tmp_path / "again/report.html").unlink()
    write_report(tmp_path / "again")
    assert (tmp_path / "again/report.html").read_bytes() == (metrics / "report.html").read_bytes()


def test_a_closed_form_model_has_no_training_curve(metrics: Path, tmp_path: Path) -> None:
    shutil.copytree(metrics, tmp_path / "linear")
    curves = pd.DataFrame([{"epoch": 0, "validation_total": 0.01, "validation_psnr": 30.0}])
    curves.to_csv(tmp_path / "linear/training.csv", index=False)
    write_report(tmp_path / "linear")
    assert "<h2>Training</h2>" not in (tmp_path / "linear/report.html").read_text()


def test_the_score_table(tmp_path: Path) -> None:
    def spread(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.5, "high": mean + 0.5}

    scores = {
        "psnr": spread(30.123),
        "ssim": spread(0.9),
        "lpips": None,
        "floors": {"mean_colour": {"psnr": 12.0, "ssim": 0.2}, "bicubic": {"psnr": 25.0, "ssim": 0.7}},
        "ceilings": {"jpeg": {"psnr": 45.0, "ssim": 0.99}},
    }
    weights = {"kind": "imagenet", "detail": "V1", "sha256": "0"}
    protocol = {
        "model": {"blueprint": {"decoder": "wavelet", "fusion": "none"}},
        "features": {"vgg16.block1": {"backbone": {"weights": weights}}},
        "data": {"dataset": "div2k"},
        "not_computed": {"lpips": "no weights"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    (tmp_path / "protocol.json").write_text(json.dumps(protocol))
    assert score_table(tmp_path).splitlines() == [
        "vgg16.block1 → wavelet · imagenet weights (V1) · div2k",
        "                                PSNR dB                     SSIM  LPIPS",
        "this decoder       30.12 [29.62, 30.62]  0.9000 [0.4000, 1.4000]      –",
        "bicubic thumbnail                 25.00                   0.7000      –",
        "mean colour                       12.00                   0.2000      –",
        "JPEG, equal bytes                 45.00                   0.9900      –",
        "no lpips: no weights",
    ]


def test_the_summary_command_prints_the_table(metrics: Path) -> None:
    from stages.__main__ import app

    answer = CliRunner().invoke(app, ["summary", "--metrics", str(metrics)], catch_exceptions=False)
    assert answer.output.startswith(score_table(metrics))
    assert f"pictures and curves: {metrics / 'report.html'}" in answer.output


def test_a_clone_without_dvcs_cache_still_prints_the_scores(metrics: Path, tmp_path: Path) -> None:
    shutil.copy(metrics / "metrics.json", tmp_path)
    note = "is in DVC's cache; to fetch it, run: dvc pull (or dvc repro)"
    *lines, last = score_table(tmp_path).splitlines()
    assert lines == score_table(metrics).splitlines()[1 : 1 + len(lines)]
    assert last == f"what was scored: {tmp_path / 'protocol.json'} {note}"
    with pytest.raises(DataError) as refusal:
        write_report(tmp_path)
    assert str(refusal.value) == f"{tmp_path / 'protocol.json'} {note}"


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "holds no scores"), ('{"psnr": 3}', "holds no scores"), ("[]", "is damaged")]
)
def test_a_file_without_scores_is_no_table(content: str, message: str, tmp_path: Path) -> None:
    from stages.__main__ import app

    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=f"metrics.json {message}.*; write it again: python -m stages evaluate$"):
        score_table(tmp_path)
    assert CliRunner().invoke(app, ["summary", "--metrics", str(tmp_path)]).exit_code != 0


def test_titles_of_ensembles_tell_whose_weights_are_whose() -> None:
    def entry(kind: str, detail: str) -> dict[str, object]:
        return {"backbone": {"weights": {"kind": kind, "detail": detail}}}

    protocol = {
        "model": {"blueprint": {"decoder": "residual", "fusion": "attention"}},
        "features": {"a.x": entry("random", "seed 0"), "b.y": entry("imagenet", "V1")},
        "data": {"dataset": "sample"},
    }
    expected = "a.x [random weights (seed 0)] + b.y [imagenet weights (V1)] → attention fusion → residual · sample"
    assert title(protocol) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metrics.json is missing; score a model first: python -m stages evaluate$"),
        ("{", r"metrics.json is damaged \(not valid JSON\); write it again: python -m stages evaluate$"),
    ],
)
def test_missing_and_damaged_metrics(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=message):
        write_report(tmp_path)


def test_figures_are_reproducible_svg_without_dates(metrics: Path) -> None:
    scores, table = read_json(metrics / "metrics.json"), pd.read_csv(metrics / "per_image.csv")
    figures = [
        lambda: plots.histograms(table, scores),
        lambda: plots.octaves(pd.read_csv(metrics / "plots/octaves.csv")),
        lambda: plots.training(pd.read_csv(metrics / "training.csv")),
    ]
    for figure in figures:
        text = figure()
        assert text.startswith("<svg")
        assert text == figure()
        assert "<dc:date>" not in text


# --- DVC's plots without a network ------------------------------------------------------------------------------

PUBLISHED = {  # SHA-256 of build/<name>.min.js in the npm package
    "vega@5.20.2": "4794d0169cb1f3ebad8117fe98ba5bd652dd725905ec0384e832391dbccb03be",
    "vega-lite@5.2.0": "d73157451b3978015ab31dacd55ff90d986ab8663fc0abed50f97b3cd90002cb",
    "vega-embed@6.18.2": "1ba9826431ddc9805e815ad92acc811c819f2bfd32bda2a128b8c4b5070fab5e",
}


def test_the_page_of_dvcs_plots_holds_the_published_scripts_and_no_link() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = dict(re.findall(r'<script data-package="([^"]+)">(.*?)</script>', text, flags=re.DOTALL))
    assert {name: hashlib.sha256(script.encode()).hexdigest() for name, script in found.items()} == PUBLISHED
    assert (
        re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="', re.sub(r"<script .*?</script>", "", text, flags=re.DOTALL)
        )
        == []
    )
    assert "Redistribution and use in source and binary forms" in text
    assert "html_template = plots_page.html" in (ROOT / ".dvc" / "config").read_text()


def test_the_page_has_the_scripts_that_this_dvc_wants() -> None:
    from dvc_render.vega import VegaRenderer

    assert set(re.findall(r"npm/([^\"]+)", VegaRenderer.SCRIPTS)) == set(PUBLISHED)


def plots_of_the_project() -> list[dict[str, Any]]:
    """All plots of the real dvc.yaml, those of its stages too, for a dvc.yaml without any stage."""
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")
    of_stages = [plot for stage in pipeline["stages"].values() for plot in stage.get("plots", ())]
    for plot in of_stages:
        for settings in plot.values():
            del settings["cache"]  # only an output has one
    return [*pipeline["plots"], *of_stages]


def test_dvc_draws_both_histograms() -> None:
    drawn = {name: settings for plot in plots_of_the_project() for name, settings in plot.items()}
    for metric in ("psnr", "ssim"):
        histogram = drawn[f"{metric.upper()} of the test images"]
        assert histogram["y"] == {f"metrics/plots/{metric}_histogram.csv": metric}
        assert (histogram["x"], histogram["template"]) == ("images", "bar_horizontal")


@pytest.mark.slow
def test_dvc_plots_show_works_offline(metrics: Path, tmp_path: Path) -> None:
    """Real DVC draws the evaluation's files; a JavaScript engine, where there is one, compiles every chart."""
    (tmp_path / ".dvc").mkdir()
    for name in ("config", "plots_page.html"):
        shutil.copy(ROOT / ".dvc" / name, tmp_path / ".dvc" / name)
    shutil.copytree(metrics, tmp_path / "metrics")
    drawn = plots_of_the_project()
    YAML().dump({"plots": drawn}, tmp_path / "dvc.yaml")
    for command in ("git init --quiet", f"{commands()}/dvc plots show"):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    page = (tmp_path / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert page.count("vegaEmbed('#") == len(drawn) - 1  # all but the folder of pictures
    assert page.count('<img src="static/') == 4
    assert "cdn.jsdelivr.net" not in page
    node = shutil.which("node")
    if node is None:
        pytest.skip("no JavaScript engine (node) compiles the charts; the page itself passed")
    (tmp_path / "render.js").write_text(RENDER)
    run = subprocess.run([node, "render.js"], cwd=tmp_path, check=True, capture_output=True, text=True)
    charts = json.loads(run.stdout.splitlines()[-1])
    assert len(charts) == len(drawn) - 1
    assert all(svg.startswith("<svg") and "<path" in svg for svg in charts.values())


RENDER = """
const fs = require('fs'), vm = require('vm');
const page = fs.readFileSync('dvc_plots/index.html', 'utf8');
const charts = [], window = {console, setTimeout, clearTimeout, URL, addEventListener: () => {}};
window.self = window.window = window.globalThis = window;
vm.createContext(window);
for (const [, script] of page.matchAll(/<script[^>]*>([\\s\\S]*?)<\\/script>/g)) {
  if (script.includes('vegaEmbed(')) window.vegaEmbed = (id, spec) => charts.push([id, spec]);
  vm.runInContext(script, window);
}
Promise.all(charts.map(async ([id, spec]) => {
  const view = new window.vega.View(window.vega.parse(window.vegaLite.compile(spec).spec), {renderer: 'none'});
  return [id, await view.toSVG()];
})).then(drawn => console.log(JSON.stringify(Object.fromEntries(drawn))));
"""
