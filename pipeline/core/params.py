"""params.yaml: parsed here only, and validated whole before any work starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.errors import ParamsError
from pipeline.core.rules import problems
from pipeline.core.schema import (
    BackboneParams,
    DistanceParams,
    EvaluateParams,
    ExtractParams,
    Params,
    PrepareParams,
    ProtocolParams,
    StoreParams,
    TrainParams,
)
from pipeline.core.section import LINEAR, NONE, parse_section

__all__ = [
    "LINEAR",
    "NONE",
    "BackboneParams",
    "DistanceParams",
    "EvaluateParams",
    "ExtractParams",
    "Params",
    "PrepareParams",
    "ProtocolParams",
    "StoreParams",
    "TrainParams",
    "load_params",
    "parse_override",
]


def load_params(path: Path = Path("params.yaml"), overrides: Iterable[str] = (), lacking: Path | None = None) -> Params:
    """Read and validate `path`, with `key=value` overrides (dotted keys, YAML values) applied first.

    Keys that `path` lacks, because an older version wrote it, come from the file `lacking`.

    Raises:
        ParamsError: unreadable YAML, an unknown key or name, a wrong type or range, or two keys that exclude each
            other; all problems at once.
    """
    values = _read(path) if lacking is None else _filled(_read(path), _read(lacking))
    for override in overrides:
        _apply(values, override)
    params = parse_section(Params, values)
    if found := [*problems(params)]:
        raise ParamsError("\n".join(found))
    return params


def _read(path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing; run from the project's root, or `git checkout {path}`") from None
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read ({error}); --params takes a text file") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds no keys; restore it with `git checkout {path}`")
    return values


def _filled(values: dict[str, Any], lacking: dict[str, Any]) -> dict[str, Any]:
    """`values`, and in it and each of its sections the keys that only `lacking` has."""
    both = (key for key in values.keys() & lacking.keys() if isinstance(values[key], dict))
    sections = {key: _filled(values[key], lacking[key]) for key in both if isinstance(lacking[key], dict)}
    return {**lacking, **values, **sections}


def _apply(values: dict[str, Any], override: str) -> None:
    key, value = parse_override(override)
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ParamsError(f"--set {override}: '{parent}' is a value, not a section")
    section[last] = value


def parse_override(override: str) -> tuple[str, Any]:
    """Split `train.protocol=published` into the dotted key and its YAML value. Raises ParamsError: another form."""
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise ParamsError(f"--set {override}: must be key=value, for example --set train.protocol=published")
    try:
        return key, YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise ParamsError(f"--set {override}: '{text}' is not a YAML value") from None
