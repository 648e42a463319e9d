"""What `compare` writes, and experiments that it reads from DVC."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forks import commands
from small_comparison import three_experiments, write_experiment
from typer.testing import CliRunner

from pipeline.core.errors import DataError
from pipeline.experiments.comparison import compare, leaderboard
from pipeline.experiments.found import opened


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    return three_experiments(tmp_path)


def test_a_file_where_the_comparison_should_go(three: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(DataError, match=r"^--out .*deeper: .*out is a file; name a folder, it is made when missing$"):
        compare(three, tmp_path / "out/deeper")
    assert (tmp_path / "out").read_text() == "kept"


def test_a_second_comparison_writes_no_file_through_its_links(three: list[str], tmp_path: Path) -> None:
    compare(three, tmp_path / "out")
    for path in sorted((tmp_path / "out").iterdir()):
        os.link(path, tmp_path / path.name)
    before = {path.name: (tmp_path / path.name).read_bytes() for path in (tmp_path / "out").iterdir()}
    compare(three[:2], tmp_path / "out")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert all((tmp_path / "out" / name).read_bytes() != content for name, content in before.items())


def test_images_may_be_called_by_numbers(tmp_path: Path) -> None:
    """Photographs without an ending are admitted by their content."""
    names = [str(write_experiment(tmp_path / name, 1, called="{:06}")) for name in ("one", "two")]
    compare(names, tmp_path / "out")
    assert (tmp_path / "out/strip.png").is_file()


def test_no_strip_of_an_earlier_comparison_stays(three: list[str], tmp_path: Path) -> None:
    from stages.__main__ import app

    def printed(*names: str) -> str:
        arguments = ["compare", *names, "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, arguments, catch_exceptions=False).output

    assert f"pictures: {tmp_path / 'out/strip.png'}" in printed(*three)
    renamed = str(write_experiment(tmp_path / "renamed", 1, called="other_{:02}.png"))
    assert "no pictures: the experiments saved no photograph in common" in printed(three[0], renamed)
    assert not (tmp_path / "out/strip.png").exists()


DVC_YAML = """
stages:
  evaluate:
    cmd: cp -r source/. metrics/
    deps: [source]
    metrics: [metrics/metrics.json: {cache: false}]
    plots: [metrics/per_image.csv: {cache: false}]
    outs: [metrics/protocol.json, metrics/reconstructions]
"""


@pytest.mark.slow
def test_dvc_experiments_and_the_workspace(three: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)

    def run(command: str) -> None:
        subprocess.run(command.replace("dvc ", f"{commands()}/dvc ", 1).split(), check=True, capture_output=True)

    for command in ("git init --quiet", "git config user.name Test", "git config user.email test@example.org"):
        run(command)
    run("dvc init --quiet")
    (repository / "dvc.yaml").write_text(DVC_YAML)
    (repository / "metrics").mkdir()
    shutil.copytree(three[0], "source")
    run("git add --all")
    run("git commit --quiet --message start")
    for name, experiment in zip(("exp-good", "exp-middle"), three, strict=False):
        shutil.rmtree("source")
        shutil.copytree(experiment, "source")
        run(f"dvc exp run --name {name}")
    with opened(["exp-good", "exp-middle", "workspace"]) as experiments:
        table = leaderboard(experiments, "psnr")
        np.testing.assert_array_equal(experiments[0].picture("photograph_01.png", "reconstruction")[0, 0], [60, 0, 0])
    assert list(table["experiment"]) == ["exp-good", "exp-middle", "workspace"]
    assert table["lead_p"][0] < 0.001
    assert table["lead_p"][1] == 1  # the workspace is exp-middle
    text = compare((), tmp_path / "all")  # whatever there is
    found = pd.read_csv(tmp_path / "all/leaderboard.csv")
    assert list(found["experiment"]) == ["exp-good", "workspace, exp-middle"]  # equal scores are one experiment
    assert re.search(r"^HEAD is left out: the evaluation of 'HEAD' cannot be read", text, re.MULTILINE)
    run("git add metrics/metrics.json metrics/per_image.csv dvc.lock source")
    run("git commit --quiet --message evaluated")
    compare((), tmp_path / "all")
    found = pd.read_csv(tmp_path / "all/leaderboard.csv")
    assert list(found["experiment"]) == ["exp-good", "workspace, exp-middle, HEAD"]  # of the commit before, too
    with pytest.raises(DataError, match=r"^'nosuch' is no folder with metrics.json, no DVC experiment and no Git rev"):
        compare(["nosuch"], tmp_path / "out")
    shutil.rmtree(".dvc/cache")  # a fresh clone
    message = (
        r"^the evaluation of '{}' cannot be read \(.*\); metrics/protocol.json and reconstructions are in DVC's cache: "
        r"run dvc pull --all-commits, or dvc repro on that revision$"
    )
    for revision in ("HEAD", "exp-good"):
        with pytest.raises(DataError, match=message.format(revision)):
            compare([revision], tmp_path / "out")
    shutil.rmtree("metrics/reconstructions")
    with pytest.raises(DataError) as refusal:
        compare((), tmp_path / "out")
    first, *others = str(refusal.value).splitlines()
    assert "nothing to compare yet; run dvc repro" in first
    assert {line.partition(" is left out: ")[0] for line in others} == {"workspace", "exp-good", "exp-middle", "HEAD"}


def test_without_names_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"in no Git repository with DVC; name folders"):
        compare((), tmp_path / "out")
