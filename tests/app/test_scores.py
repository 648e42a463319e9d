"""The experiments page: every experiment a row, best first, with intervals; names are text; strips and differences."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkout import EXPERIMENTS, small_checkout
from small_comparison import write_experiment

from app.laboratory import Laboratory
from app.scores import curves, differences, model_of, named, records, scored, strips, table
from pipeline.core.errors import DataError
from pipeline.experiments.found import Experiment, opened

ROWS = re.compile(r'<tr tabindex="0" data-name="([^"]*)">')


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def made_up(folder: Path, name: str, shift: float, **options: str) -> str:
    place = write_experiment(folder / name, shift, **options)  # type: ignore[arg-type]
    metrics = json.loads((place / "metrics.json").read_text())
    metrics["psnr"] |= {"low": metrics["psnr"]["mean"] - 1, "high": metrics["psnr"]["mean"] + 2}
    (place / "metrics.json").write_text(json.dumps(metrics))
    return str(place)


@pytest.fixture
def two(tmp_path: Path) -> list[Experiment]:
    with opened([made_up(tmp_path, "residual", 1), made_up(tmp_path, "wavelet", 3)]) as experiments:
        return experiments


def test_best_first_with_the_interval_on_the_scale_of_its_column(two: list[Experiment]) -> None:
    html = table(two)
    assert [Path(name).name for name in ROWS.findall(html)] == ["wavelet", "residual"]
    best, other = (attributes["style"] for tag, attributes in Tags(html).tags if attributes.get("class") == "interval")
    numbers = [[float(each) for each in re.findall(r"([\d.]+)%", str(style))] for style in (best, other)]
    low, high = two[0].metrics["psnr"]["low"], two[1].metrics["psnr"]["high"]
    for experiment, (start, middle, end) in zip(two[::-1], numbers, strict=True):
        entry = experiment.metrics["psnr"]
        for place, key in ((start, "low"), (middle, "mean"), (end, "high")):
            assert place == pytest.approx(100 * (entry[key] - low) / (high - low), abs=0.01)


def test_what_differs_is_a_column(two: list[Experiment]) -> None:
    heads = re.findall('<button type="button">(.*?)</button>', table(two).replace("<wbr>", ""))
    assert heads == ["experiment", "PSNR, dB", "SSIM", "LPIPS", "parameters", "decoder"]


def test_a_name_is_text_wherever_it_stands(tmp_path: Path) -> None:
    name = '<img src=x onerror="alert(1)"> ${alert(2)} {{alert}}'
    with opened([made_up(tmp_path, "a", 1), made_up(tmp_path, "b", 2)]) as experiments:
        escaped = [Experiment(f"{name}{k}", *list(vars(each).values())[1:]) for k, each in enumerate(experiments)]
        pages = [table(escaped), strips(escaped), differences(escaped)]
    for page in pages:
        found = Tags(page)
        assert not any("onerror" in attributes for _, attributes in found.tags)
        assert 'onerror="alert(1)">' in "".join(found.text)


def test_a_single_experiment_has_a_row_without_columns_of_differences(two: list[Experiment]) -> None:
    assert len(ROWS.findall(table(two[:1]))) == 1


def test_strips_show_the_very_pixels(two: list[Experiment]) -> None:
    sources = [str(attributes["src"]) for tag, attributes in Tags(strips(two)).tags if tag == "img"]
    assert len(sources) == 2 * 3  # photographs by original and two reconstructions
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[2].partition(",")[2]))))
    expected = two[1].picture("photograph_00.png", "reconstruction")
    np.testing.assert_array_equal(shown, expected.repeat(2, 0).repeat(2, 1))  # 100 × 80, enlarged by a whole factor


def test_another_protocol_is_said_and_not_in_the_strip(tmp_path: Path) -> None:
    names = [made_up(tmp_path, "a", 1), made_up(tmp_path, "b", 2, pixels="b" * 64)]
    with opened(names) as experiments:
        assert "test_pixels" in differences(experiments)
        assert sum(tag == "img" for tag, _ in Tags(strips(experiments)).tags) == 2 * 2


def test_a_lead_is_said_with_its_p(two: list[Experiment]) -> None:
    assert re.search(r"wavelet is ahead of .*residual: \+2[.\d]* \[.*\], p &lt; 0.0001", differences(two))


@pytest.mark.slow
def test_what_the_checkout_has() -> None:
    laboratory = Laboratory(small_checkout())
    experiments, left_out = scored(laboratory)
    assert {each.name for each in experiments} == {"workspace, HEAD", *EXPERIMENTS}
    assert not left_out
    assert scored(laboratory)[0] is experiments  # read once
    again, _ = scored(laboratory, again=True)  # of what was fetched
    assert sorted(each.name for each in again) == sorted(each.name for each in experiments)
    found = curves(experiments)
    assert set(found["experiment"]) == {"workspace, HEAD", *EXPERIMENTS}
    assert found.groupby("experiment")["epoch"].max()["workspace, HEAD"] == 2
    assert [row["rank"] for row in json.loads(json.dumps(records(laboratory)))] == [1, 2, 3, 4]
    assert {model_of(each.name) for each in experiments} == set(laboratory.models())
    assert [each.name for each in named(laboratory, ["deeper", "shallow"])] == ["deeper", "shallow"]
    for names in (
        ["deeper"],
        ["deeper", "nosuch"],
        ["deeper", "shallow", "shallow-random", "workspace, HEAD", "deeper"],
    ):
        with pytest.raises(DataError):
            named(laboratory, names)


def test_an_empty_checkout_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dvc repro"):
        scored(Laboratory(tmp_path))
