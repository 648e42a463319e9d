"""`python -m stages --help` and each command's are complete."""

import os
import subprocess
import sys

import pytest
import typer
from project import ROOT

from pipeline.core.params import load_params
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


def test_the_list_of_weights_loads_no_library() -> None:
    """The shipped entries are random or of a package; only what a library publishes must be asked of it."""
    program = """
import sys
from stages.__main__ import main
sys.argv[0] = "stages"
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "torchvision", "timm"} & {*sys.modules}))
"""
    arguments = [sys.executable, "-c", program, "weights"]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    *lines, loaded = found.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*load_params(ROOT / "params.yaml").backbones, "lpips"]
    assert loaded == "loaded:"
    arguments += ["--set", "backbones.vgg16.weights=imagenet"]
    assert "torchvision" in subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True).stdout  # it can tell


@pytest.mark.parametrize("command", ["summary", "compare"])
def test_a_command_that_reads_scores_loads_no_torch(command: str) -> None:
    """The table of metrics, and what writes pictures, need torch only where they compute."""
    program = f"""
import sys
import stages.{command}
assert "pandas" in sys.modules  # the measure works
print("loaded:", *sorted({{"torch", "torchvision", "timm", "dvc"}} & {{*sys.modules}}))
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.splitlines() == ["loaded:"], found.stderr


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in readme] == []
