"""`python -m benchmarks.decoders`, on a few crops."""

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from forks import commands
from project import ROOT

from benchmarks import decoders
from benchmarks.decoders import markdown, parse, run
from pipeline.models.common.decoder import DECODERS

TINY = ["prepare.size=72", "prepare.crop=64", "prepare.views=1", "protocols.fast.epochs=1"]
BOTH = "resnet34.layer1:linear", "resnet34.layer1:residual"


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _options(out: Path, *arguments: str) -> list[str]:
    return ["--sources", "resnet34.layer1", "--set", *TINY, "--out", str(out), "--device", "cpu", *arguments]


@pytest.mark.slow
def test_the_table_is_measured_row_by_row_and_never_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"{commands()}/python")  # the stages are forks
    out = tmp_path / "table.csv"
    first = run(parse(_options(out, "--only", BOTH[0])))
    both = run(parse(_options(out, "--only", *BOTH, "--root", str(tmp_path / "kept"))))
    assert list(both["decoder"]) == ["linear", "residual"]
    pd.testing.assert_frame_equal(both.head(1), first, rtol=1e-5)
    assert both["parameters"].tolist() == [27_696, 115_968]
    assert (both["psnr"] > both["low"]).all()
    assert sorted(os.listdir(tmp_path / "kept/features/resnet34")) == ["layer1"]
    pd.testing.assert_frame_equal(pd.read_csv(out), both, rtol=1e-5)
    monkeypatch.setattr(decoders.Experiments, "_stage", lambda *_: pytest.fail("measured again"))
    assert len(run(parse(_options(out, "--only", *BOTH)))) == 2


def test_photographs_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.csv"
    pd.DataFrame([{"data": "of others", **dict.fromkeys(decoders.KEY, "")}]).to_csv(out)
    monkeypatch.setattr(decoders.Experiments, "extract", lambda self: "mine")
    with pytest.raises(SystemExit, match=r"table\.csv is of other photographs; give this table another file: --out"):
        run(parse(_options(out, "--only", *BOTH)))


def test_the_table_is_ordered_by_source_then_score() -> None:
    rows = pd.DataFrame(
        [
            ("vgg16.block3", "linear", "defaults", 5, 1.4, 22.0, 21.0, 23.0, 0.5, 21.5),
            ("vgg16.block1", "linear", "defaults", 6924, 1.6, 31.6, 31.1, 32.1, 0.9364, 28.18),
            ("vgg16.block1", "residual", "train.protocol=thorough", 9, 2, 33.123, 32, 34, 0.95, 28.18),
        ],
        columns=["source", "decoder", "settings", "parameters", "seconds", "psnr", "low", "high", "ssim", "bicubic"],
    )
    assert markdown(rows).splitlines()[2:] == [
        "| vgg16.block1 | `residual` | `train.protocol=thorough` | 9 | 2 | 33.12 [32.00, 34.00] | 0.9500 | 28.18 |",
        "| vgg16.block1 | `linear` | defaults | 6,924 | 2 | 31.60 [31.10, 32.10] | 0.9364 | 28.18 |",
        "| vgg16.block3 | `linear` | defaults | 5 | 1 | 22.00 [21.00, 23.00] | 0.5000 | 21.50 |",
    ]


def test_what_takes_hours_is_only_measured_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(decoders.Experiments, "extract", lambda self: "mine")

    def note(self: decoders.Experiments, source: str, decoder: str, extra: list[str]) -> dict[str, object]:
        asked.append(decoder)
        return {"source": source, "decoder": decoder, "settings": "defaults"}

    monkeypatch.setattr(decoders.Experiments, "measure", note)
    block1 = ["--sources", "vgg16.block1", "--out", str(tmp_path / "table.csv")]
    run(parse(block1))
    assert asked == [name for name in DECODERS.names() if name not in ("attention", "patch_transformer")]
    run(parse([*block1, "--only", "vgg16.block1:attention"]))
    assert asked[-1] == "attention"


def test_the_documented_table_is_the_measured_one() -> None:
    page, rows = (ROOT / "docs/results.md").read_text(), pd.read_csv(ROOT / "docs/decoders.csv")
    assert markdown(rows) in page, "put the table of docs/decoders.csv, which the program prints, into docs/results.md"


def test_the_documented_claims_are_those_of_the_table() -> None:
    """Every trained decoder at its defaults is ahead of the linear one somewhere, as docs/results.md says."""
    rows = pd.read_csv(ROOT / "docs/decoders.csv")
    defaults = rows[rows["settings"] == decoders.DEFAULTS].pivot(index="source", columns="decoder", values="psnr")
    assert set(defaults.columns) <= set(DECODERS.names())
    for decoder in set(defaults.columns) - {"linear"}:
        assert (defaults[decoder] > defaults["linear"]).any(), decoder


BARS = {"vgg16.block1": 34.0, "vit_small.block1": 31.8, "resnet34.layer1": 24.2, "vgg16.block3": 22.6}  # dB


def test_the_best_of_each_source_reaches_its_bar() -> None:
    """What this project asks of itself: by the best decoder and protocol, on the documented photographs."""
    best = pd.read_csv(ROOT / "docs/decoders.csv").groupby("source")["psnr"].max()
    assert set(best.index) == set(BARS) == set(decoders.SOURCES)
    assert {source: best[source] for source, bar in BARS.items() if best[source] < bar} == {}
