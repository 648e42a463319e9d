"""Stages that an experiment does not need leave a placeholder, at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT


@pytest.mark.parametrize(
    ("command", "placeholder"),
    [(["refine"], "data/first_stage/unused"), (["extract", "--backbone", "none"], "features/none/none/unused")],
)
def test_it_loads_no_torch(command: list[str], placeholder: str, tmp_path: Path) -> None:
    program = [sys.executable, "-X", "importtime", "-m", "stages", *command, "--root", str(tmp_path)]
    run = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "stages.unused" in imported
    assert "torch" not in imported
    assert (tmp_path / placeholder).is_file()
