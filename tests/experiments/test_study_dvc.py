"""A study in a real clone: features once, two workers, a failure that is tried again, nothing that is done twice."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from project import Project, Result, small_project

pytestmark = pytest.mark.slow

STUDY = """
set:
  prepare.views: 1
grids:
  layers:
    source:
      - vgg16.block1
      - vgg16.block2
    decoder:
      - linear
  fragile:
    source: resnet34.layer2
    decoder: residual
"""
FRAGILE = "tiny-resnet34.layer2-residual"
DEPTHS = {"depths.svg", "depth_vgg16.md", "depth_vgg16.png"}
RESULTS = {"leaderboard.md", "leaderboard.csv", "table.csv", "heat_map.svg", *DEPTHS}
BREAKS = """
    from pathlib import Path
    if settings.decoder == "residual" and Path({flag!r}).exists():
        raise SystemExit("error: the flag is up")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Prepared photographs, a study, and a stage that fails for one of its experiments while a flag is up."""
    root = tmp_path_factory.mktemp("study")
    project = small_project(root)
    project.set({"datasets.folder.root": str(root / "data/raw/photographs")})
    (root / "studies/tiny.yaml").write_text(STUDY)
    flag = root / "data/raw/flag"
    flag.touch()
    stage = root / "stages/train.py"
    loaded = "def train(settings: Params, paths: Paths, device: str) -> None:\n"
    assert loaded in stage.read_text()
    stage.write_text(stage.read_text().replace(loaded, loaded + BREAKS.format(flag=str(flag))))
    project.run("dvc", "repro", "prepare")
    project.commit("a study")
    return project


def study(project: Project, *options: str, check: bool = True) -> Result:
    return project.run("python", "-m", "stages", "study", "studies/tiny.yaml", *options, check=check)


def logs(project: Project) -> list[str]:
    return [path.read_text() for path in sorted((project.root / ".dvc/tmp/exps/run").glob("*/*.out"))]


def test_a_study_from_its_plan_to_its_figures(project: Project) -> None:
    planned = study(project, "--dry-run").output
    assert "3 of 3 to run" in planned
    assert FRAGILE in planned
    assert re.search(
        r"about .+ of training one after another, without scoring and refining; features: [\d.]+ [kMG]B", planned
    )
    elsewhere = study(project, "--dry-run", "--set", "dataset=sample", check=False)
    assert elsewhere.code == 1
    assert "data/prepared holds folder, not sample" in elsewhere.output
    assert "tiny-" not in project.run("dvc", "exp", "list").output

    first = study(project, "--jobs", "2", check=False)
    assert first.code == 1
    assert f"  {FRAGILE}: error: the flag is up (" in first.output
    assert Path(first.output.split("the flag is up (")[1].split(")")[0]).is_file()
    assert first.output.count("Running stage 'extract@") == 3  # vgg16, resnet34 and the placeholder
    results = project.root / "metrics/studies/tiny"
    assert {path.name for path in results.iterdir()} == RESULTS
    assert f"Without a result: {FRAGILE}." in (results / "leaderboard.md").read_text()
    assert len(pd.read_csv(results / "leaderboard.csv")) == 2
    ran = logs(project)
    assert len(ran) == 3
    assert not any("Running stage 'extract@" in log for log in ran)

    (project.root / "data/raw/flag").unlink()
    second = study(project, "--jobs", "2")
    assert "tiny: 2 of 3 experiments finished" in second.output
    table = pd.read_csv(results / "table.csv", index_col="variant")
    assert list(table.columns) == ["vgg16.block1", "vgg16.block2", "resnet34.layer2"]
    assert list(table.index) == ["linear", "residual"]
    assert table.notna().sum().sum() == 3
    assert table.loc["linear", "vgg16.block1"] > table.loc["linear", "vgg16.block2"]

    before = {path.name: path.read_bytes() for path in results.iterdir()}
    third = study(project)
    assert "tiny: 3 of 3 experiments finished" in third.output
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before
    assert project.run("git", "status", "--porcelain", "--", "params.yaml", "dvc.lock").output == ""


def test_the_contribution_of_each_layer_from_experiments_of_its_subsets(project: Project) -> None:
    chosen = ["--set", "layer=block1+block2", "--set", "decoder=linear", "--set", "prepare.views=1"]
    layers = project.run("python", "-m", "stages", "layers", "--jobs", "2", *chosen).output
    assert "layers_vgg16.block1+block2_linear: 0 of 3 experiments finished" in layers  # both, and each alone
    results = project.root / "metrics/studies/layers_vgg16.block1+block2_linear"
    assert {path.name for path in results.iterdir()} == {"layers.md", "layers.csv", "layers.svg"}
    table = pd.read_csv(results / "layers.csv", index_col="source")
    assert list(table.index) == ["vgg16.block1", "vgg16.block2"]
    assert table.loc["vgg16.block1", "without"] == table.loc["vgg16.block2", "alone"]
    assert table.loc["vgg16.block1", "left_out"] > 0
    assert (results / "layers.md").read_text() in layers
    again = project.run("python", "-m", "stages", "layers", *chosen).output
    assert "3 of 3 experiments finished" in again
    one = project.run("python", "-m", "stages", "layers", "--set", "layer=block1", check=False)
    assert one.code == 1
    assert "layer = 'block1' is one layer" in one.output


def test_a_typo_stops_the_study_before_any_work(project: Project) -> None:
    refused = study(project, "--set", "decoders.linear.kernell=3", check=False)
    assert refused.code == 1
    assert "studies/tiny.yaml: unknown key 'set.decoders.linear.kernell' (did you mean" in refused.output
    refused = study(project, "--set", "loss=mae", check=False)
    assert refused.code == 1
    assert "tiny-vgg16.block1-linear and 2 others: params.yaml: loss = 'mae' is unknown" in refused.output


def test_a_relative_root_of_photographs_is_refused(project: Project) -> None:
    refused = study(project, "--set", "datasets.folder.root=data/raw/photographs", check=False)
    assert refused.code == 1
    assert f"add --set datasets.folder.root={project.root / 'data/raw/photographs'}" in refused.output
