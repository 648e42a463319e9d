"""`dvc repro` killed in the middle of an extraction: what was finished is used, and the run cache still works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import Project, small_project
from small_stores import tree

pytestmark = pytest.mark.slow

STAGE = "extract@vgg16"
SHARDS = {"store.shard_megabytes": 1, "extract.batch_size": 2, "prepare.size": 100, "prepare.crop": 96}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Prepared data of 48 rows, in shards of two, and nothing extracted yet."""
    project = small_project(tmp_path_factory.mktemp("killed"), photographs=30)
    project.set(SHARDS)
    project.run("dvc", "repro", "prepare")
    return project


def records(project: Project) -> list[Path]:
    return sorted((project.root / ".work/extract").glob("vgg16-*/done/*.json"))


def test_killed_under_dvc_resumed_and_taken_from_the_run_cache(project: Project) -> None:
    features = project.root / "features/vgg16"
    project.kill("dvc", "repro", STAGE, when=lambda: len(records(project)) >= 2)
    assert not features.exists()
    finished = len(records(project))
    assert 2 <= finished < 24

    again = project.run("dvc", "repro", STAGE)
    assert again.ran == [STAGE]
    assert f"extract vgg16: {48 - 2 * finished} rows in" in again.output
    resumed = tree(features)
    assert project.run("dvc", "repro", STAGE).ran == []

    shutil.rmtree(features)
    project.run("git", "checkout", "--quiet", "dvc.lock", check=False)
    (project.root / "dvc.lock").unlink(missing_ok=True)
    restored = project.run("dvc", "repro", STAGE)
    assert "is cached - skipping run, checking out outputs" in restored.output
    assert tree(features) == resumed

    (project.root / "elsewhere").mkdir()
    (project.root / "elsewhere/data").symlink_to(project.root / "data")
    project.run("python", "-m", "stages", "extract", "--backbone", "vgg16", "--root", "elsewhere")
    assert tree(project.root / "elsewhere/features/vgg16") == resumed  # an undisturbed run
