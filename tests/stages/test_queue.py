"""Several experiments at a time: DVC's queue with two workers, and what is done with an experiment afterwards."""

import re
import time
from collections.abc import Iterator

import pytest
from project import Project, computed_project

pytestmark = pytest.mark.slow

NAMES = ("sweep-1", "sweep-2")
FIT = ["train", "evaluate"]
LOADED = "def train(settings: Params, paths: Paths, device: str) -> None:\n"
COUNT_LINKS = """
    print("links of a shard:", min(path.stat().st_nlink for path in paths.features.rglob("c.*")))
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two experiments queued as a sweep and run by two workers, from committed features."""
    project = computed_project(tmp_path_factory.mktemp("queue") / "project")
    stage = project.root / "stages/train.py"
    assert LOADED in stage.read_text()
    stage.write_text(stage.read_text().replace(LOADED, LOADED + COUNT_LINKS))
    project.run("dvc", "repro", "prior", "extract", "refine")
    project.commit("features")
    project.run("dvc", "exp", "run", "--queue", "--name", "sweep", "-S", "decoder=linear,residual")
    for jobs in ("1", "2"):  # one after the other: workers that start together can break one another
        project.run("dvc", "queue", "start", "--jobs", jobs)
        time.sleep(5)
    deadline = time.monotonic() + 240
    while any(word in project.run("dvc", "queue", "status").output for word in ("Queued", "Running")):
        assert time.monotonic() < deadline
        time.sleep(4)
    return project


@pytest.fixture
def project(swept: Project) -> Iterator[Project]:
    yield swept
    swept.run("git", "reset", "--quiet", "--hard")


def test_both_succeed_and_only_train_and_evaluate(project: Project) -> None:
    assert project.run("dvc", "queue", "status").output.count("Success") == 2
    for name in NAMES:
        assert project.run("dvc", "queue", "logs", name).ran == FIT


def test_features_are_linked_into_the_temporary_workspaces(project: Project) -> None:
    for name in NAMES:
        (links,) = re.findall(r"links of a shard: (\d+)", project.run("dvc", "queue", "logs", name).output)
        assert int(links) > 1


def test_an_experiment_applied_is_up_to_date(project: Project) -> None:
    project.run("dvc", "exp", "apply", NAMES[0])
    assert "decoder: linear" in (project.root / "params.yaml").read_text()
    assert project.run("dvc", "repro").ran == []
    project.run("dvc", "exp", "save", "--name", "saved")
    assert "saved" in project.run("dvc", "exp", "list").output
    difference = project.run("dvc", "metrics", "diff", "sweep-2", "saved").output
    assert "decoder.parameters" in difference


def test_a_branch_of_an_experiment_is_up_to_date(project: Project) -> None:
    project.run("dvc", "exp", "branch", NAMES[1], "residual-decoder")
    project.run("git", "checkout", "--quiet", "residual-decoder")
    project.run("dvc", "checkout", "--force")
    assert project.run("dvc", "repro").ran == []
    project.run("git", "checkout", "--quiet", "main")
