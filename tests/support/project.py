"""A real clone of this project in a temporary folder, with photographs of its own and settings of seconds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forks import commands
from PIL import Image
from ruamel.yaml import YAML
from shared import once

ROOT = Path(__file__).parents[2]
RUNNING = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)

SMALL = {
    "dataset": "folder",
    "backbone": "vgg16",
    "layer": "block1",
    "decoder": "transposed_conv",
    "prepare.size": 72,
    "prepare.crop": 64,
    "datasets.folder.validation_fraction": 0.2,
    "datasets.folder.test_fraction": 0.2,
    "backbones.vgg16.layers": ["block1", "block2"],
    "backbones.resnet34.layers": ["layer1", "layer2"],
    "protocols.fast.epochs": 2,
    "evaluate.bootstrap": 100,
    "perceptual.metric.backbone": "none",
}
UNUSED = ("resnet50", "vit_base", "efficientnet_lite1", "efficientnet_lite2")  # half of what `check` takes


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    output: str

    @property
    def ran(self) -> list[str]:
        """The DVC stages that ran, in order, without the validation of params.yaml."""
        return [stage for stage in RUNNING.findall(self.output) if stage != "check"]


@dataclass(frozen=True)
class Project:
    """A checkout to type commands into."""

    root: Path

    def run(self, *command: str, check: bool = True, real: bool = False, **variables: str) -> Result:
        """Run a command as a user would; `dvc` and `python` are those of this environment, forked unless `real`."""
        run = subprocess.run(
            command,
            cwd=self.root,
            env=_environment(real) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and run.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {run.returncode}:\n{run.stdout}")
        return Result(run.returncode, run.stdout)

    def kill(self, *command: str, when: Callable[[], bool], seconds: float = 120) -> None:
        """Start a command and kill -9 it, with everything it started, as soon as `when()`."""
        output = subprocess.DEVNULL
        process = subprocess.Popen(
            command, cwd=self.root, env=_environment(real=True), stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + seconds
        while not when():
            assert process.poll() is None, f"{' '.join(command)} ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def set(self, values: Mapping[str, object]) -> None:
        """Change keys of params.yaml, comments kept, as an editor would."""
        yaml = YAML()
        path = self.root / "params.yaml"
        params = yaml.load(path)
        for key, value in values.items():
            *parents, last = key.split(".")
            section = params
            for parent in parents:
                section = section[parent]
            section[last] = value
        yaml.dump(params, path)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def make_environment(self) -> None:
        """A `.venv` that sees what this environment has: make installs nothing into it but the project."""
        place = self.root / ".venv"
        self.run(sys.executable, "-m", "venv", "--without-pip", str(place))
        (packages,) = place.glob("lib/python*/site-packages")
        seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages / "tests.pth").write_text("\n".join(seen))
        (place / ".installed").touch()

    def fork_stages(self) -> None:
        """`python -m stages` of the `.venv` that `make_environment` made is forked, too; all else is its own."""
        folder = self.root / ".venv/bin"
        (folder / "python").rename(folder / "own")
        script = f'#!/bin/sh\n[ "$1 $2" = "-m stages" ] && exec "{commands()}/python" "$@"\nexec "{folder}/own" "$@"\n'
        (folder / "python").write_text(script)
        (folder / "python").chmod(0o755)

    def clone(self, target: Path) -> Project:
        self.run("git", "clone", "--quiet", str(self.root), str(target))
        return _with_identity(Project(target))


def checkout(target: Path) -> Project:
    """The tracked files of this working tree, as they are now, as a repository of its own."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    project = Project(target)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    return _with_identity(project)


def small_project(target: Path, photographs: int = 14) -> Project:
    """A checkout whose default experiment takes seconds, committed; without networks that no test asks for."""
    project = checkout(target)
    write_photographs(target / "data/raw/photographs", photographs)
    project.set(SMALL)
    yaml, path = YAML(), target / "params.yaml"
    params = yaml.load(path)
    for name in UNUSED:
        del params["backbones"][name]
    yaml.dump(params, path)
    (target / "dvc.lock").unlink(missing_ok=True)
    project.commit("small settings")
    return project


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of `language`, in order."""
    return _blocks((ROOT / document).read_text(), language)


def extend(project: Project, heading: str) -> str:
    """Add what docs/extending.md shows below `heading`, its file and its entry in params.yaml; the file's name."""
    _, _, after = (ROOT / "docs/extending.md").read_text().partition(f"\n## {heading}\n")
    part, _, _ = after.partition("\n## ")
    name = re.findall(r"`(pipeline/[\w/]+\.py)`", part)[0]
    (code,) = _blocks(part, "python")
    assert not (project.root / name).exists()
    (project.root / name).write_text(code)
    for entry in map(YAML(typ="safe", pure=True).load, _blocks(part, "yaml")):
        project.set({f"{section}.{key}": value for section, keys in entry.items() for key, value in keys.items()})
    return name


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def computed_project(target: Path) -> Project:
    """A copy of one `small_project` whose `dvc repro` has run and is committed; links into its cache stay links."""

    def compute(folder: Path) -> None:
        project = small_project(folder)
        project.run("dvc", "repro")
        project.commit("first run")

    subprocess.run(["cp", "--archive", str(once("project", compute)), str(target)], check=True)
    return Project(target)


def write_photographs(folder: Path, count: int, edge: int = 80) -> None:
    """Smooth colourful pictures with some texture, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        random = np.random.default_rng(index)
        coarse = random.uniform(0, 255, (5, 5, 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((edge, edge), Image.Resampling.BICUBIC)
        noise = random.normal(0, 8, (edge, edge, 3))
        pixels = np.clip(np.asarray(smooth, float) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"photograph_{index:03d}.png")


def _environment(real: bool) -> dict[str, str]:
    folder = str(Path(sys.executable).parent) if real else commands()
    path = os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return environment


def _with_identity(project: Project) -> Project:
    project.run("git", "config", "user.name", "Test")
    project.run("git", "config", "user.email", "test@example.org")
    return project
