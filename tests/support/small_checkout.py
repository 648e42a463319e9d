"""A small checkout as the laboratory finds one: a model and its scores, photographs, and three DVC experiments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from project import ROOT, Project
from shared import once
from small_evaluation import scored
from small_experiment import Experiment, experiment, photographs, small_settings

from pipeline.core.params import parse_override

TRAINED = ("backbone=efficientnet_lite0", "backbones.efficientnet_lite0.layers=[stage1, stage2]")
RANDOM = ("backbones.efficientnet_lite0.weights=random", "backbones.efficientnet_lite0.seed=0")
EXPERIMENTS = {  # name → what it changes: two depths of a trained network, and one of them with random weights
    "shallow": (*TRAINED, "layer=stage1"),
    "deeper": (*TRAINED, "layer=stage2"),
    "shallow-random": (*TRAINED, *RANDOM, "layer=stage1"),
}


def small_checkout() -> Path:
    """Its root. The model of the workspace is a transposed convolution on vgg16.block1, those of the others linear."""
    return once("checkout", _make)


def _make(root: Path) -> None:
    root.mkdir()
    project = Project(root)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    (root / ".gitignore").write_text("/data/\n")
    made = experiment("transposed_conv")
    shutil.copytree(made.root / "data", root / "data")
    _git(root, "init", "--quiet", "--initial-branch=main")
    _git(root, "config", "user.name", "tests")
    _git(root, "config", "user.email", "tests@localhost")
    _put(project, made, "backbones.vgg16.layers=[block1, block2]")  # of the deeper one there is no model
    _commit(root)
    start = _git(root, "rev-parse", "HEAD")
    for name, overrides in EXPERIMENTS.items():
        _put(project, experiment("linear", *overrides), *overrides, "decoder=linear")
        _commit(root)
        _git(root, "update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", "HEAD")
        _git(root, "reset", "--quiet", "--hard", start)


def _put(project: Project, made: Experiment, *overrides: str) -> None:
    """Parameters, model and scores of `made`, in place of those that are there."""
    shutil.copy2(ROOT / "params.yaml", project.root)
    project.set(dict(map(parse_override, (*small_settings(photographs()), *overrides))))
    for folder in (project.root / "models", project.root / "metrics"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made.models, project.root / "models")
    scored(made, project.root / "metrics")
    if (made.made / "training.csv").is_file():
        shutil.copy2(made.made / "training.csv", project.root / "metrics")


def _commit(root: Path) -> None:
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "an experiment")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
