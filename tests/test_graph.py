"""dvc.yaml against the code: a stage depends on every file that can change its numbers."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# what cannot change a number: wording, renaming, locks, bars, look-up, types of names, and the validation that `check`
# depends on
WITHOUT_NUMBERS = {
    "alexnet",
    "errors",
    "files",
    "lock",
    "progress",
    "registry",
    "params",
    "section",
    "sources",
    "protocol",
}
GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def _imports(module: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _used(stage: str) -> set[str]:
    """Every file of the library that the stage's module imports, directly or not, relative to the root."""
    waiting, seen = [ROOT / "stages" / f"{stage}.py"], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += [file for name in _imports(module) if (file := _file(name))]
    return {str(file.relative_to(ROOT)) for file in seen if file.name != "__init__.py"}


@pytest.mark.parametrize("stage", ["prepare", "prior", "extract", "refine", "train", "evaluate"])
def test_a_stage_depends_on_the_code_it_uses(stage: str) -> None:
    deps = set(GRAPH[stage]["deps"])

    def covered(file: str) -> bool:
        path = Path(file)
        chosen = any(dep.startswith(f"{path.parent}/${{") for dep in deps)  # the one that params.yaml names
        own = path.name not in {"base.py", "blocks.py", "_tokens.py"}
        return bool({file, *map(str, path.parents)} & deps) or (chosen and own)

    exempt = {f"pipeline/{name}.py" for name in WITHOUT_NUMBERS}
    assert [file for file in sorted(_used(stage)) if file not in exempt and not covered(file)] == []


@pytest.mark.parametrize("stage", GRAPH)
def test_every_dependency_exists(stage: str) -> None:
    for dep in GRAPH[stage]["deps"]:
        if dep.startswith(("pipeline", "stages")) and "$" not in dep:
            assert (ROOT / dep).exists(), dep
