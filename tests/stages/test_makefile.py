"""What `make` says on a machine that cannot make the environment."""

import shutil
import subprocess
from pathlib import Path

import pytest
from project import ROOT, checkout


def _copy(folder: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "tests/requirements.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def _make(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """`make setup` in a folder that has no environment, with a shell script for a Python."""
    _copy(folder)
    stub = folder / "python"
    stub.write_text(f"#!/bin/sh\n{python}\n")
    stub.chmod(0o755)
    return subprocess.run(["make", "setup", f"PYTHON={stub}"], cwd=folder, capture_output=True, text=True)


def test_no_python_at_all_is_one_sentence(tmp_path: Path) -> None:
    _copy(tmp_path)
    run = subprocess.run(["make", "setup", "PYTHON=nosuch"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    sentence = "error: there is no nosuch here; install Python 3.11 or newer, or name yours: make PYTHON=python3.12"
    assert sentence in run.stderr.splitlines()


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        (
            'case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac',
            "error: Python 3.9.2 is too old; Python 3.11 or newer is needed: make PYTHON=python3.12",
        ),
        (
            'case "$*" in *ensurepip*) exit 1;; esac',
            "error: this Python cannot make virtual environments; install its venv package "
            "(Debian, Ubuntu: apt install python3-venv)",
        ),
    ],
    ids=["old", "no venv"],
)
def test_a_python_that_will_not_do_is_one_sentence(tmp_path: Path, python: str, sentence: str) -> None:
    run = _make(tmp_path, python)
    assert run.returncode != 0
    assert sentence in run.stderr.splitlines()
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_make_installs_the_project_and_not_twice(tmp_path: Path) -> None:
    project = checkout(tmp_path / "clone")
    project.make_environment()
    python = str(project.root / ".venv/bin/python")
    where = ("-c", "import os, pipeline, stages; os.chdir('/'); print(pipeline.__file__, stages.__file__)")

    def stamps() -> list[int]:
        return [(project.root / ".venv" / name).stat().st_mtime_ns for name in (".installed", ".package")]

    project.run("make", "setup")
    places = subprocess.run([python, *where], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert places == [str(project.root / name / "__init__.py") for name in ("pipeline", "stages")]
    first = stamps()
    project.run("make", "setup")
    assert stamps() == first  # nothing changed
    (project.root / "pyproject.toml").touch()
    project.run("make", "setup")
    assert stamps()[0] == first[0]  # several GB are not looked through again
    assert stamps()[1] > first[1]


@pytest.mark.slow
def test_the_package_needs_what_requirements_txt_lists_and_tests_need_more(tmp_path: Path) -> None:
    """As `pip install` elsewhere would see it."""
    project = checkout(tmp_path / "clone")
    project.make_environment()
    project.run("make", "setup")
    code = "import importlib.metadata as m; print('\\n'.join(m.requires('feature-inversion')))"
    needed = project.run(str(project.root / ".venv/bin/python"), "-c", code).output.splitlines()
    for name, extra in (("requirements.txt", False), ("tests/requirements.txt", True)):
        listed = {line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")}
        assert listed == {each.partition(";")[0] for each in needed if ("extra ==" in each) == extra}
