"""The house rules of the library, enforced over its imports."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# from the bottom up: a package imports only from those before it
ORDER = (
    *("core", "stores", "data", "backbones", "metrics", "extraction"),
    *("loading", "models", "refinement", "training", "evaluation", "experiments"),
)
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))

APP = sorted((ROOT / "app").rglob("*.py"))
USE_TORCH = ("laboratory.py", "layers.py", "results.py")


def _part(module: Path) -> str:
    """The package directly below pipeline."""
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
def test_a_module_imports_only_from_packages_below_its_own(module: Path) -> None:
    part = _part(module)
    if part == "__init__":
        return
    for name in _imports(module):
        package, _, rest = name.partition(".")
        assert package not in ("stages", "app"), f"{module} imports what is above the library"
        if package == "pipeline" and rest:
            other = rest.split(".")[0]
            assert ORDER.index(other) <= ORDER.index(part), f"{part} imports {other}, which is above it"


def test_every_package_has_a_place_and_nothing_lies_beside_them() -> None:
    assert {_part(module) for module in MODULES} - {"__init__"} == set(ORDER)
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]
    assert len(ORDER) <= 15


@pytest.mark.parametrize("module", [module for module in MODULES if module.name == "__init__.py"], ids=str)
def test_a_package_says_what_it_is_and_runs_nothing(module: Path) -> None:
    """Imports name the module that defines a thing, so that a stage loads, and depends on, what it uses."""
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


@pytest.mark.parametrize("module", APP, ids=lambda m: str(m.relative_to(ROOT)))
def test_the_app_imports_the_library_and_computes_nothing(module: Path) -> None:
    """torch is there to name what the library gives, and to hand pixels to it."""
    imported = _imports(module)
    assert not any(name.split(".")[0] == "stages" for name in imported)
    allowed = {"torch", "torch.Tensor"} if module.name in USE_TORCH else set()
    assert {name for name in imported if name.split(".")[0] == "torch"} <= allowed
    assert not {"torch.nn", "torch.nn.functional", "scipy", "skimage"} & imported
    arithmetic = [node for node in ast.walk(ast.parse(module.read_text())) if _computes(node)]
    assert not arithmetic, ", ".join(ast.unparse(node) for node in arithmetic)


def _computes(node: ast.AST) -> bool:
    """A power, a product of matrices, or a call of what works on arrays."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Pow | ast.MatMult) and not all(
            isinstance(side, ast.Constant) for side in (node.left, node.right)
        )
    return isinstance(node, ast.Attribute) and node.attr in ("mean", "std", "sqrt", "log10", "clamp", "interpolate")


@pytest.mark.parametrize("module", sorted((ROOT / "stages").glob("*.py")), ids=lambda m: m.name)
def test_a_command_imports_at_the_top_of_its_module(module: Path) -> None:
    """Late imports: where options are read, and where what is valid, or was proved before, needs no torch, no timm."""
    tree = ast.parse(module.read_text())
    inside = {node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)} - set(tree.body)
    assert not inside or module.name in ("__main__.py", "loading.py", "check.py", "choices.py")


def test_one_place_makes_an_autocast_context() -> None:
    made = [str(module.relative_to(ROOT)) for module in MODULES if "torch.autocast(" in module.read_text()]
    assert made == ["pipeline/core/runtime.py"]


def test_imports_go_round_in_no_circle() -> None:
    """Neither at the top of modules nor inside functions. `prepare` raises CycleError, which names the circle."""
    names = {".".join(module.relative_to(ROOT).with_suffix("").parts): module for module in MODULES}
    imports = {}
    for name, module in names.items():
        nodes = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)]
        found = {str(node.module) for node in nodes}
        found |= {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        imports[name] = found & names.keys()
    assert imports["pipeline.stores.opening"] >= {"pipeline.stores.base"}
    TopologicalSorter(imports).prepare()
