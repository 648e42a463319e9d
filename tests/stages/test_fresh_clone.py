"""A clone whose committed dvc.lock was computed on another machine: it names outputs that are in no cache here."""

import hashlib
import shutil
import time
from pathlib import Path

import pytest
from project import Project, small_project
from ruamel.yaml import YAML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COMPUTED = ("data/", "features/", "models", "metrics/")
FIT = ["train", "evaluate"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A committed first run whose outputs differ in their bytes from what is computed here, as on another processor."""
    project = small_project(tmp_path_factory.mktemp("elsewhere"), photographs=10)
    photographs = str(project.root / "data/raw/photographs")  # of use to temporary workspaces, too
    small = {"decoder": "linear", "backbones.vgg16.layers": ["block1"], "datasets.folder.root": photographs}
    project.set(small)
    project.run("dvc", "repro")
    path, yaml = project.root / "dvc.lock", YAML()
    lock = yaml.load(path)
    for stage in lock["stages"].values():
        for entry in (*stage.get("deps", []), *stage.get("outs", [])):
            if entry["path"].startswith(COMPUTED):
                digest, directory, _ = entry["md5"].partition(".dir")
                entry["md5"] = hashlib.md5(f"other {digest}".encode()).hexdigest() + directory
    yaml.dump(lock, path)
    project.commit("first run")
    shutil.rmtree(project.root / ".dvc/cache")
    return project


@pytest.fixture
def clone(elsewhere: Project, tmp_path: Path) -> Project:
    return elsewhere.clone(tmp_path / "clone")


def finish_queue(project: Project) -> None:
    """Run all that is queued, with one worker."""
    project.run("dvc", "queue", "start")
    deadline = time.monotonic() + 600
    while any(word in project.run("dvc", "queue", "status").output for word in ("Queued", "Running")):
        assert time.monotonic() < deadline
        time.sleep(4)


def test_temporary_experiments_one_after_the_other_then_the_workspace(clone: Project) -> None:
    assert clone.run("dvc", "exp", "run", "--temp", "-S", "train.resident=never").ran[-3:] == ["refine", *FIT]
    assert clone.run("dvc", "exp", "run", "--temp", "-S", "train.resident=always").ran == ["train"]  # the same model
    assert clone.run("dvc", "exp", "run", "-S", "evaluate.bootstrap=150").ran == FIT
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("dvc", "checkout", "--force", "--allow-missing")
    assert clone.run("dvc", "exp", "run", "-S", "evaluate.bootstrap=160").ran == ["evaluate"]
    clone.run("git", "checkout", "--quiet", ".")
    assert clone.run("dvc", "repro").ran == []
    assert clone.run("dvc", "exp", "run", "--temp", "-S", "train.resident=never").ran == []


def test_a_queue_of_two_then_the_committed_experiment(clone: Project) -> None:
    for resident in ("never", "always"):
        clone.run("dvc", "exp", "run", "--queue", "--name", resident, "-S", f"train.resident={resident}")
    finish_queue(clone)
    assert clone.run("dvc", "queue", "status").output.count("Success") == 2
    assert clone.run("dvc", "queue", "logs", "always").ran == ["train"]
    assert clone.run("dvc", "repro").ran == ["train"]
    assert clone.run("dvc", "exp", "run", "-S", "train.resident=never").ran == []
