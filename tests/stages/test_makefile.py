"""What `make` says on a machine that cannot make the environment."""

import shutil
import subprocess
from pathlib import Path

import pytest
from project import ROOT


def _make(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """`make setup` in a folder that has no environment, with a shell script for a Python."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    stub = folder / "python"
    stub.write_text(f"#!/bin/sh\n{python}\n")
    stub.chmod(0o755)
    return subprocess.run(["make", "setup", f"PYTHON={stub}"], cwd=folder, capture_output=True, text=True)


def test_no_python_at_all_is_one_sentence(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
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
