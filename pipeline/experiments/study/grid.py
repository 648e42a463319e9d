"""Read a study's file: grids of parameters, expanded into named configurations. Nothing is run or written.

set:                         # parameters of every configuration, by dotted key, as in `dvc exp run -S`
  train.protocol: published
ensembles:                   # names for sets of sources, of up to four networks
  early: [resnet34.layer1, vgg16.block1]
grids:                       # the configurations of a grid: the product of its lists
  fusions:
    source: early            # layers (vgg16.block1, vgg16.block1+block3, vgg16.all) or an ensemble; one value is fixed,
                             # a list is varied (a fixed list: [[1, 2]])
    fusion: [attention, concat]
    decoder: [wavelet, residual]
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.errors import ParamsError
from pipeline.core.params import NONE, parse_override
from pipeline.core.progress import counted
from pipeline.core.section import Names, Section, did_you_mean, parse_section
from pipeline.core.sources import Source

SLOTS = ("second", "third", "fourth")
SOURCE, FUSION = "source", "fusion"
PLAIN = re.compile(r"(?!(?:true|false|null)$)[A-Za-z_./][\w./+%@-]*")  # a text that YAML and DVC's -S read as text
UNNAMEABLE = re.compile(r"[^\w.+-]+")  # characters that an experiment's name, a Git reference, cannot have
DATA_KEYS = frozenset({"seed", "dataset", "datasets", "prepare", "backbones", "extract", "store"})


class StudyFile(Section):
    """The content of a study's file."""

    set: dict[str, Any] = Field(default_factory=dict)
    ensembles: dict[str, Names] = Field(default_factory=dict)
    grids: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


@dataclass(frozen=True)
class Configuration:
    """One experiment of a study.

    Attributes:
        name: of the DVC experiment; starts with the study's name.
        source: the inverted layers and their fusion, a column of the study's table.
        variant: everything else that the grid varies, a row of the study's table.
        settings: `key=value` parameters, valid for `dvc exp run -S` and for `--set`.
        sources: the layers of `source`.
    """

    name: str
    source: str
    variant: str
    settings: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def data_settings(self) -> tuple[str, ...]:
        """The settings that can change what `prepare` and `extract` compute."""
        return tuple(each for each in self.settings if re.split(r"[.=]", each, maxsplit=1)[0] in DATA_KEYS)


@dataclass(frozen=True)
class Study:
    """A named list of configurations, in the order of the file."""

    name: str
    configurations: tuple[Configuration, ...]


def load_study(path: Path, params: Path, overrides: Iterable[str] = ()) -> Study:
    """Read the study in `path` and expand its grids. Loading the params of each configuration checks their values.

    Args:
        params: the parameters file, which must have every key of the study.
        overrides: `key=value` settings of every configuration, which override the file's `set`.

    Raises:
        ParamsError: unreadable YAML, an unknown key, an invalid source, or two configurations with one name.
    """
    values = _read(path)
    try:
        file = parse_section(StudyFile, values)
    except ParamsError as error:
        raise ParamsError(
            str(error)
            .replace("params.yaml:", f"{path}:")
            .replace("the params.yaml of a fresh clone", "the files of studies")
        ) from None
    file = file.model_copy(update={"set": {**file.set, **dict(map(parse_override, overrides))}})
    known = frozenset(_dotted(_read(params)))
    problems = list(_problems(file, known))
    if problems:
        raise ParamsError("\n".join(f"{path}: {problem}" for problem in problems))
    configurations = tuple(each for grid in file.grids.values() for each in _expand(path.stem, file, grid))
    twice = [name for name, count in Counter(each.name for each in configurations).items() if count > 1]
    if twice:
        raise ParamsError(
            f"{path}: two configurations are called {', '.join(twice)}; write the keys that differ as lists, so that "
            "their values appear in the names"
        )
    return Study(path.stem, configurations)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        there = sorted(str(other) for other in path.parent.glob("*.yaml"))
        raise ParamsError(f"{path} is missing; choose one of: {', '.join(there) or 'none are there'}") from None
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds no keys; a study needs at least: grids")
    return values


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted key of every value and every section."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def _problems(file: StudyFile, known: frozenset[str]) -> Iterator[str]:
    """Problems of the file's keys and sources, a sentence each."""
    for key in file.set:
        yield from _key_problems(f"set.{key}", key, known)
    for name, members in file.ensembles.items():
        yield from _source_problems(f"ensembles.{name}", members)
        if len(members) < 2:
            yield f"ensembles.{name} has {counted(len(members), 'source')}; an ensemble takes two or more"
        networks = {member.partition(".")[0] for member in members}
        if len(networks) > 1 + len(SLOTS):
            yield f"ensembles.{name} has {len(networks)} networks; an ensemble takes up to {1 + len(SLOTS)}"
    for grid, axes in file.grids.items():
        where = f"grids.{grid}"
        if SOURCE not in axes:
            yield f"{where} has no source; add one, for example source: vgg16.block1"
        for key, values in axes.items():
            if values == []:
                yield f"{where}.{key} is an empty list; give it a value, or leave the key out"
            if key == SOURCE:
                layers = [each for each in map(str, _listed(values)) if each not in file.ensembles]
                yield from _source_problems(f"{where}.{key}", layers)
            else:
                yield from _key_problems(f"{where}.{key}", key, known)


def _key_problems(where: str, key: str, known: frozenset[str]) -> Iterator[str]:
    if key in {"backbone", "layer"} or key.split(".")[0] == "ensemble":
        yield f"{where}: sources are given as source, for example source: vgg16.block1"
    elif key not in known:
        yield f"unknown key '{where}'{did_you_mean(key, known)}; a study sets keys that params.yaml has"


def _source_problems(where: str, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            Source.parse(text)
        except ParamsError as error:
            yield f"{where}: {error}, and no name of an ensemble"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _expand(study: str, file: StudyFile, axes: Mapping[str, Any]) -> Iterator[Configuration]:
    varied = [key for key, value in axes.items() if len(_listed(value)) > 1 and key not in {SOURCE, FUSION}]
    for values in itertools.product(*map(_listed, axes.values())):
        chosen = {FUSION: NONE, **file.set, **dict(zip(axes, values, strict=True))}
        source = str(chosen.pop(SOURCE))
        members = tuple(map(Source.parse, file.ensembles.get(source, (source,))))
        labels = [source] if chosen[FUSION] == NONE else [source, _label(chosen[FUSION])]
        rest = [_label(chosen[key]) for key in varied] or [_label(chosen.get("decoder", "default"))]
        yield Configuration(
            name="-".join([study, *labels, *rest]),
            source=" ".join(labels),
            variant=" ".join(rest),
            settings=tuple(f"{key}={_text(value)}" for key, value in {**slots(members), **chosen}.items()),
            sources=members,
        )


def slots(members: Iterable[Source]) -> dict[str, str]:
    """The parameters that choose `members`; slots that are not needed are emptied."""
    (backbone, layers), *rest = Source.slots(members)
    values = {"backbone": backbone, "layer": layers}
    for name, (backbone, layers) in itertools.zip_longest(SLOTS, rest, fillvalue=(NONE, NONE)):
        values |= {f"ensemble.{name}.backbone": backbone, f"ensemble.{name}.layer": layers}
    return values


def _label(value: Any) -> str:
    return UNNAMEABLE.sub("_", value if isinstance(value, str) else json.dumps(value)).strip("_")


def _text(value: Any) -> str:
    """A value as DVC's -S and YAML both read it."""
    return value if isinstance(value, str) and PLAIN.fullmatch(value) else json.dumps(value)
