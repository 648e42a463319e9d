"""Leaderboards: order, paired significance against scipy, protocols."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from messages import says
from PIL import Image
from scipy import stats
from small_comparison import three_experiments, write_experiment

from pipeline.core.errors import DataError
from pipeline.experiments.comparison import compare, lead, leaderboard, settings, varied
from pipeline.experiments.found import opened


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    return three_experiments(tmp_path)


def test_best_first_and_only_real_leads_are_significant(three: list[str]) -> None:
    with opened(three[::-1]) as experiments:
        table = leaderboard(experiments, "psnr")
    assert [Path(name).name for name in table["experiment"]] == ["good", "middle", "close"]
    assert list(table["rank"]) == [1, 2, 3]
    assert table["lead_p"][0] < 0.001
    assert table["lead_mean"][0] == pytest.approx(1, abs=0.1)
    assert table["lead_p"][1] > 0.05
    assert pd.isna(table["lead_p"][2])
    assert table["lead_low"][1] < 0 < table["lead_high"][1]


def test_the_interval_and_p_are_those_of_a_paired_test(three: list[str]) -> None:
    with opened(three) as (good, middle, close):
        for first, second in ((good, middle), (middle, close)):
            found = lead(first, second, "psnr")
            assert found is not None
            gains = first.per_image["psnr"] - second.per_image["psnr"]
            expected = stats.ttest_1samp(gains, 0)
            low, high = expected.confidence_interval()
            assert found.mean == pytest.approx(gains.mean())
            assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))
            assert found.p == pytest.approx(expected.pvalue, abs=0.05)


def test_an_unpaired_test_would_have_missed_the_lead(three: list[str]) -> None:
    with opened(three) as (good, middle, _):
        assert stats.ttest_ind(good.per_image["psnr"], middle.per_image["psnr"]).pvalue > 0.05
        found = lead(good, middle, "psnr")
        assert found is not None
        assert found.p < 0.001


def test_leads_are_tested_by_photograph(tmp_path: Path) -> None:
    """Four photographs, ten crops each, of which one decides: 0.3 to 0.9 dB ahead on three, 0.3 behind on one."""
    names = [str(write_experiment(tmp_path / name, 1, photographs=4)) for name in ("first", "second")]
    with opened(names) as (first, second):
        gains = np.repeat([0.9, -0.3, 0.3, 0.3], 10) + np.tile([0.05, -0.05], 20)
        first.per_image["psnr"] = second.per_image["psnr"] + gains
        found = lead(first, second, "psnr")
    assert found is not None
    assert found.photographs == 4
    draws = np.array(list(product([0.9, -0.3, 0.3, 0.3], repeat=4))).mean(axis=1)  # every sample there is
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), abs=0.08)
    assert found.p == pytest.approx(2 * (draws <= 1e-9).mean(), abs=0.02)
    assert stats.ttest_1samp(gains, 0).pvalue < 1e-4 < 0.05 < found.p  # crop by crop it looks certain


def test_four_photographs_never_give_a_smaller_p_than_a_sign_test(tmp_path: Path) -> None:
    names = [str(write_experiment(tmp_path / name, 1, photographs=4)) for name in ("first", "second")]
    with opened(names) as (first, second):
        first.per_image["psnr"] = second.per_image["psnr"] + 5
        found = lead(first, second, "psnr")
    assert found is not None
    assert found.p == stats.binomtest(4, 4).pvalue == 0.125


def test_few_photographs_are_said_and_many_are_not(three: list[str], tmp_path: Path) -> None:
    few = [str(write_experiment(tmp_path / f"few {name}", 1, photographs=4)) for name in "ab"]
    says(
        compare(few, tmp_path / "out").splitlines()[-1],
        "Intervals and p",
        "the 4 test photographs",
        "fewer than 30",
        "too narrow",
    )
    assert list(pd.read_csv(tmp_path / "out/leaderboard.csv")["lead_photographs"].dropna()) == [4]
    assert "Intervals" not in compare(three, tmp_path / "out")


def without_photographs(folder: str) -> None:
    """As an earlier version wrote it: no column, and intervals that resampled images."""
    table = pd.read_csv(Path(folder) / "per_image.csv")
    table.drop(columns="photograph").to_csv(Path(folder) / "per_image.csv", index=False)
    protocol = json.loads((Path(folder) / "protocol.json").read_text())
    protocol["conventions"] |= {"low, high": "95 % percentile bootstrap of the mean over the images, seeded"}
    (Path(folder) / "protocol.json").write_text(json.dumps(protocol))


def test_an_evaluation_that_resampled_images_is_of_another_protocol(three: list[str], tmp_path: Path) -> None:
    without_photographs(three[0])
    says(
        compare(three, tmp_path / "out").splitlines()[-1],
        f"{three[2]} was scored under another protocol than {three[0]}",
        "conventions",
        "low, high",
    )
    without_photographs(three[1])
    with pytest.raises(DataError) as refusal:
        compare(three, tmp_path / "out")
    says(refusal.value, f"per_image.csv of {three[0]}", "no column photograph", "python -m stages evaluate")


def test_lower_is_better_for_lpips(three: list[str]) -> None:
    with opened(three) as experiments:
        table = leaderboard(experiments, "lpips")
    assert Path(table["experiment"][0]).name == "good"
    assert table["lpips"].is_monotonic_increasing
    assert table["lead_mean"][0] > 0


def test_a_metric_that_one_lacks_is_refused(tmp_path: Path) -> None:
    names = [str(write_experiment(tmp_path / name, 0, lpips=name == "with")) for name in ("with", "without")]
    with pytest.raises(
        DataError, match=r"^no lpips in .*without; compare by a metric that all have \(--metric psnr\)$"
    ):
        compare(names, tmp_path / "out", "lpips")


def test_files_and_markdown(three: list[str], tmp_path: Path) -> None:
    text = compare(three, tmp_path / "out")
    lines = text.splitlines()
    assert lines[0] == "| # | experiment | setting | PSNR dB | SSIM | LPIPS | parameters | ahead of the next by |"
    assert lines[2].startswith(f"| 1 | {three[0]} | vgg16.block1 → good · random weights (seed 0) · folder | 3")
    assert lines[2].endswith("p < 0.0001 |")
    assert lines[4].endswith("| 1,234 | – |")
    assert (tmp_path / "out/leaderboard.md").read_text() == text
    assert len(pd.read_csv(tmp_path / "out/leaderboard.csv")) == 3
    strip = np.asarray(Image.open(tmp_path / "out/strip.png"))
    reds = {int(value) for value in np.unique(strip[..., 0][(strip[..., 1] == 0) & (strip[..., 2] == 0)])}
    assert {0, 40, 20, 60, 10, 50, 9, 49} <= reds  # two originals, two reconstructions of each


def test_another_protocol_is_said_and_never_tested(three: list[str], tmp_path: Path) -> None:
    other = str(write_experiment(tmp_path / "other", 1.5, pixels="b" * 64))
    text = compare([*three, other], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/leaderboard.csv")
    assert [Path(name).name for name in table["experiment"]] == ["good", "other", "middle", "close"]
    assert list(table["lead_mean"].isna()) == [True, True, False, True]
    says(
        text.splitlines()[-1],
        f"{other} was scored under another protocol than {three[0]}",
        "test_pixels",
        "aaaaaaaaaaaa…",
        "bbbbbbbbbbbb…",
    )


def test_equal_experiments_tie(tmp_path: Path) -> None:
    names = [str(write_experiment(tmp_path / name, 1)) for name in ("one", "two")]
    with opened(names) as (one, two):
        found = lead(one, two, "psnr")
    assert found is not None
    assert (found.mean, found.p) == (0, 1)


def test_equal_runs_write_equal_bytes(three: list[str], tmp_path: Path) -> None:
    for name in ("first", "second"):
        compare(three, tmp_path / name)
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_an_unknown_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = (
        r"^'nosuch' is no folder with metrics.json, and experiments and revisions cannot be looked up because .* is in "
        r"no Git repository with DVC; name a folder, or run compare inside the project$"
    )
    with pytest.raises(DataError, match=message):
        compare(["nosuch"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("absent", ["per_image.csv", "reconstructions", "protocol.json"])
def test_an_experiment_that_is_not_all_here(absent: str, three: list[str], tmp_path: Path) -> None:
    path = Path(three[0]) / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError) as refusal:
        compare(three, tmp_path / "out")
    says(refusal.value, f"{three[0]} lacks {absent}", "dvc pull", "python -m stages evaluate")


def test_what_differs_is_called_as_in_params(tmp_path: Path) -> None:
    names = [str(write_experiment(tmp_path / name, 1)) for name in ("residual", "wavelet")]
    protocol = tmp_path / "wavelet/protocol.json"
    written = json.loads(protocol.read_text())
    written["model"] |= {"seed": 42, "loss": {"mse": {"mse": 1.0}}, "train": {"protocol": "fast"}}
    written["model"]["blueprint"] |= {"decoder_options": {"band_channels": 64}}
    protocol.write_text(json.dumps(written))
    with opened(names) as experiments:
        table = varied(experiments)
        assert settings(experiments[1].protocol)["decoders.wavelet.band_channels"] == "64"
    assert table["decoder"].tolist() == ["residual", "wavelet"]
    assert set(table) == {
        "decoder",
        "loss",
        "seed",
    }  # the source is the same, and options of one alone are no difference
    assert table.index.tolist() == names


def test_curves_are_read_where_training_left_them(tmp_path: Path) -> None:
    names = [str(write_experiment(tmp_path / name, 1)) for name in ("trained", "solved")]
    pd.DataFrame({"epoch": [1, 2], "validation_psnr": [20.0, 21.0]}).to_csv(
        tmp_path / "trained/training.csv", index=False
    )
    with opened(names) as (trained, solved):
        assert trained.curves is not None
        assert trained.curves["validation_psnr"].tolist() == [20, 21]
        assert solved.curves is None
