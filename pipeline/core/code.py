"""The files of code that a stage, or any module, runs. No other place lists them.

`dependencies` gives the code dependencies in dvc.yaml (a test asserts that they are equal). `digest` hashes `files`; it
identifies the code behind unfinished work and finished numbers.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "pipeline"
STAGES = ("prepare", "prior", "extract", "refine", "train", "evaluate")
DATASETS, DECODERS, FUSIONS = "pipeline.data.datasets", "pipeline.models.decoders", "pipeline.models.fusion"
Chosen = Mapping[str, str | None]  # package of a registry → the one member that is used, or None

NO_DECODER: Chosen = {DECODERS: None, FUSIONS: None}  # the read-out is in neither package

CHOSEN: Mapping[str, Chosen] = {  # by params.yaml, or by the stage itself
    "prepare": {DATASETS: "${dataset}"},
    "refine": NO_DECODER,
    "train": {DECODERS: "${decoder}", FUSIONS: "${fusion}"},
    "evaluate": {DECODERS: "${decoder}", FUSIONS: "${fusion}"},
}


def files(*modules: str, chosen: Chosen | None = None, library: Path = ROOT) -> tuple[Path, ...]:
    """The files of the library that `modules` run, including their own.

    The function follows imports, also those inside functions, but not those under `TYPE_CHECKING`. A module that holds
    a registry also runs the registry's members.

    Args:
        modules: dotted names, such as `pipeline.training.run` or `stages.train`.
        chosen: for registries named here, only this member counts; for the others, all members.
        library: the root of another copy of the project.

    Returns:
        Sorted paths relative to the root, without files that contain no code.
    """
    waiting, seen = [*modules], dict[str, Path]()
    while waiting:
        module = waiting.pop()
        path = _file(module, library)
        if module in seen or path is None:
            continue
        seen[module] = path
        waiting += _reached(path, path.stat().st_mtime_ns, library, tuple(sorted((chosen or {}).items())))
    return tuple(
        sorted(path.relative_to(library) for path in seen.values() if _statements(path, path.stat().st_mtime_ns))
    )


def digest(*modules: str, chosen: Chosen | None = None, library: Path = ROOT) -> str:
    """SHA-256 over the syntax trees of `files` without docstrings, so that comments and formatting do not count."""
    found = hashlib.sha256()
    for path in files(*modules, chosen=chosen, library=library):
        text = _canonical(library / path, (library / path).stat().st_mtime_ns)
        found.update(f"{path.as_posix()} {len(text)}\n{text}".encode())
    return found.hexdigest()


def dependencies(stage: str) -> tuple[str, ...]:
    """The code dependencies of a stage in dvc.yaml, sorted: folders of which it runs every file, and single files.

    For a registry whose member params.yaml names, the dependency is that member's file. `core` is one dependency,
    whichever part of it a stage uses.
    """
    chosen = CHOSEN.get(stage, {})
    always = _used(stage, dict.fromkeys(chosen))
    maybe = _used(stage, {package: None for package, member in chosen.items() if member is None})
    folders = {_folder(package, ROOT): member for package, member in chosen.items()}
    core = Path(__file__).parent
    used = {path for path in always | maybe if path.parent != core and (path in always or path.parent not in folders)}
    found = {core, *(_whole(path, used) for path in used)}
    found |= {folder / f"{member}.py" for folder, member in folders.items() if member}
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in found))


def _used(stage: str, chosen: Chosen) -> set[Path]:
    return {ROOT / path for path in files(f"stages.{stage}", chosen=chosen)}


def _whole(path: Path, used: set[Path]) -> Path:
    """The largest folder inside the library around `path` whose files with code are all used; else `path`."""
    best = path
    for folder in path.parents:
        if folder in (ROOT, ROOT / PACKAGE, ROOT / "stages"):
            return best
        if all(file in used for file in folder.rglob("*.py") if _statements(file, file.stat().st_mtime_ns)):
            best = folder
    return best


def _file(module: str, library: Path) -> Path | None:
    place = library / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _folder(package: str, library: Path) -> Path:
    return library / package.replace(".", "/")


@lru_cache(maxsize=1024)
def _reached(path: Path, changed: int, library: Path, chosen: tuple[tuple[str, str | None], ...]) -> tuple[str, ...]:
    """Modules that the file imports, and members of its registries. `changed`, the file's time, keys the cache."""
    found: list[str] = []
    for node in _executed(_tree(path, changed)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            found += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Registry" and len(node.args) == 2:
            package = ast.literal_eval(node.args[1])
            member = dict(chosen).get(package, "*")
            found += [f"{package}.{file.stem}" for file in _folder(package, library).glob(f"{member}.py") if member]
    return tuple(found)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"):
            yield node
            yield from _executed(node)


def _statements(path: Path, changed: int) -> int:
    """The number of statements in the file, without its docstring."""
    return len(_tree(path, changed).body)


@lru_cache(maxsize=1024)
def _canonical(path: Path, changed: int) -> str:
    return ast.dump(_tree(path, changed))


@lru_cache(maxsize=1024)
def _tree(path: Path, changed: int) -> ast.Module:
    """The syntax tree without docstrings."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [each for number, each in enumerate(node.body) if number or not _is_text(each)]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
