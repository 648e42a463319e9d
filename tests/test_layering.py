"""The house rules of the library, enforced over its imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RANKS = {
    -1: "errors",
    0: "alexnet descent files lock progress registry rows runtime section sources splits",
    1: "datasets images params patches similarity stores wavelets",
    2: "backbones checkpoint decoders features fusion losses metrics optim pictures preparation prior ridge ring",
    3: "cached extraction fitting inverter protocol refinement",
    4: "closed_form examples plots",
    5: "evaluation report training",
    6: "comparison two_stage",
    7: "reconstruction study",
}
RANK = {name: rank for rank, names in RANKS.items() for name in names.split()}
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))


def _part(module: Path) -> str:
    """The unit that has a rank: a module or a package directly below pipeline."""
    return module.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


def _imports(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: absolute imports only"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "pipeline" else set()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_a_module_imports_only_from_lower_ranks(module: Path) -> None:
    part = _part(module)
    if part == "__init__":
        return
    assert part in RANK, f"give pipeline/{part} a rank in this test"
    for name in _imports(module):
        package, _, rest = name.partition(".")
        assert package != "stages", f"{module} imports the command line"
        if package == "pipeline" and rest:
            other = rest.split(".")[0]
            assert other == part or RANK[other] < RANK[part], f"{part} (rank {RANK[part]}) imports {other}"


def test_every_ranked_part_exists() -> None:
    assert {_part(module) for module in MODULES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("module", sorted((ROOT / "stages").glob("*.py")), ids=lambda m: m.name)
def test_stages_import_nothing_heavy_at_the_top(module: Path) -> None:
    allowed = {"__future__", "collections", "pathlib", "sys", "typing", "typer", "stages"}
    tree = ast.parse(module.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                light = name in {"pipeline.errors", "pipeline.params"}
                assert name.split(".")[0] in allowed or light, f"{module.name} imports {name} before it is needed"
