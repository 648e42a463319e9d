"""Every command of the README and the guides, typed into a real clone."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from project import ROOT, Project, blocks, extend, small_project

from pipeline.core.params import load_params

DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]

INSTALLS = "make test"  # the suite cannot run itself; continuous integration runs this one


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = small_project(tmp_path)
    shutil.copy(ROOT / "dvc.lock", project.root)  # the last commit was computed elsewhere: no cache has its files
    project.set(
        {
            "backbone": "efficientnet_lite0",
            "layer": "stage1",
            "decoder": "residual",
            "backbones.efficientnet_lite0.layers": ["stage1", "stage2", "stage3"],
        }
    )
    project.commit("a third layer")
    project.make_environment()
    project.fork_stages()
    return project


def _type(project: Project, commands: str) -> str:
    return project.run("bash", "-euo", "pipefail", "-c", commands, COLUMNS="80").output


@pytest.mark.slow
def test_readme(project: Project) -> None:
    commands = "".join(blocks("README.md", "bash"))
    assert INSTALLS in commands
    output = _type(project, re.sub(rf"^{INSTALLS}.*\n", "", commands, flags=re.MULTILINE))
    assert "this decoder" in output
    assert "bicubic thumbnail" in output
    assert re.search(r"^\| 2 \| .*\b(linear|default)\b", output, re.MULTILINE)  # compare, of all there is
    assert re.search(r"^HEAD is left out: .*dvc pull", output, re.MULTILINE)  # it was computed elsewhere
    assert "failed to load" not in output
    assert "dvc_plots/index.html" in output
    assert (project.root / "dvc_plots/index.html").is_file()
    table = [line for line in output[output.index("  Experiment ") :].splitlines() if line.strip()]
    assert {"psnr.mean", "ssim.mean", "decoder"} <= set(table[0].split())
    assert "psnr.std" not in table[0]
    assert any("[linear]" in line for line in table)
    assert not any("…" in line for line in table)  # all of it is seen, on a narrow terminal
    assert max(map(len, table)) <= 80


@pytest.mark.slow
def test_tutorial(project: Project) -> None:
    output = _type(project, "".join(blocks("docs/tutorial.md", "bash")))
    assert output.count("Running stage 'extract@efficientnet_lite0'") == 1
    assert "Data and pipelines are up to date." in output


@pytest.mark.slow
def test_add_a_decoder(project: Project) -> None:
    project.run("dvc", "repro")
    extend(project, "A decoder")
    output = _type(project, "".join(blocks("docs/extending.md", "bash")))
    assert re.search(r"\d+ passed", output)
    assert "extract" not in re.findall(r"Running stage '([^'@]+)", output)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", (ROOT / document).read_text()):
        if "://" in target:
            continue
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), f"{document} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{document} links to {target}#{anchor}"


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_holds_the_measured_leaderboard() -> None:
    from benchmarks.readme import depth_table, with_results

    readme = (ROOT / "README.md").read_text()
    assert with_results(readme, depth_table(), (ROOT / "docs/sample/leaderboard.md").read_text()) == readme


def test_the_measured_leaderboard_is_that_of_the_committed_scores() -> None:
    """The default experiment's row, so that a README from before the last `dvc repro` is noticed."""
    params = load_params(ROOT / "params.yaml")
    (source,) = params.sources
    table = pd.read_csv(ROOT / "docs/sample/leaderboard.csv")
    (row,) = table[table["setting"].str.startswith(f"{source} → {params.decoder} · ")].to_dict("records")
    scores = json.loads((ROOT / "metrics/metrics.json").read_text())
    stale = "docs/sample is not of metrics/metrics.json; run: make readme"
    for metric in ("psnr", "ssim", "mse", "mae"):
        assert row[metric] == scores[metric]["mean"], stale
    assert row["parameters"] == scores["decoder"]["parameters"], stale
