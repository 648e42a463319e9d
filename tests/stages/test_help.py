"""`python -m stages --help` and each command's are complete."""

import os
import subprocess
import sys

import pytest
import typer
from project import ROOT

from stages.__main__ import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.name == "help" or parameter.help, f"{name}: {parameter.name}"


def test_the_list_of_commands_loads_no_command() -> None:
    program = f"""
import sys
from stages.__main__ import main
sys.argv = ["stages", "--help"]
try:
    main()
finally:
    assert "numpy" in sys.modules  # the measure works
    late = {{"torch", "zarr", "h5py", *(f"stages.{{name}}" for name in {list(COMMANDS)})}} & {{*sys.modules}}
    print("loaded:", *sorted(late))
"""
    wide = os.environ | {"COLUMNS": "300"}
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=wide, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "loaded:"
    for name, command in COMMANDS.items():
        assert any(f" {name} " in line and command.help[:40] in line for line in found.stdout.splitlines()), name


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in readme] == []
