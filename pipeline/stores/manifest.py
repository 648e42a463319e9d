"""The manifest of a store, written last: a store without one is unfinished and is not read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import StoreError
from pipeline.core.files import write_whole
from pipeline.stores.files import FileRecord
from pipeline.stores.layout import Layout

MANIFEST = "manifest.json"
VERSION = 1
REFINED_FOLDER = "refined"  # folder of refined images, in place of a backbone's name

# A channel whose deviation is below this fraction of its layer's deviation, or of its own mean, is constant.
DEAD = float(np.finfo(np.float32).eps)

Facts = Mapping[str, Any]


def fingerprint(facts: Facts) -> str:
    """SHA-256 of the facts that determine a store's numbers (plain JSON values), independent of their order."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differences(expected: Facts, found: Facts) -> list[str]:
    """Sentences such as "precision is fp16, not fp32", one for every fact of `expected` that differs in `found`."""
    flat = dict(_flatten(found))
    return [
        f"{key} is {_short(flat.get(key, 'missing'))}, not {_short(value)}"
        for key, value in _flatten(expected)
        if flat.get(key, "missing") != value
    ]


def varying(mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which channels of a layer, with means and deviations (C,), vary, in any unit of the features."""
    return std > DEAD * np.maximum(np.sqrt(np.square(std).mean()), np.abs(mean))


@dataclass(frozen=True, eq=False)
class Manifest:
    """The contents of manifest.json.

    Attributes:
        facts: everything that determines the numbers, as plain values; the fingerprint is their digest.
        layout: the rows' layout on disk (also among the facts, under `store`).
        mean, std: (C,) float64, per channel over the training rows, before rounding to the stored type.
        files: size and checksum of every other file of the store, by path relative to it.
        rounding: (C,) float64, the root mean squared error of each stored channel, measured on some of the rows; None
            in older stores.
    """

    facts: dict[str, Any]
    layout: Layout
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    files: dict[str, FileRecord]
    rounding: NDArray[np.float64] | None = None

    @property
    def rounding_share(self) -> float | None:
        """The rounding error divided by the layer's deviation; 0 if no channel varies, None if not measured."""
        if self.rounding is None:
            return None
        error, deviation = (float(np.sqrt(np.square(each).mean())) for each in (self.rounding, self.std))
        return error / deviation if deviation else 0.0

    @property
    def worst_rounding(self) -> float | None:
        """The largest rounding error of a channel divided by its own deviation, over the channels that vary."""
        if self.rounding is None:
            return None
        alive = varying(self.mean, self.std)
        return float((self.rounding[alive] / self.std[alive]).max(initial=0))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.facts)

    def write(self, store: Path) -> None:
        content = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "facts": self.facts,
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "files": {name: vars(record) for name, record in sorted(self.files.items())},
        }
        if self.rounding is not None:
            content["rounding"] = [float(value) for value in self.rounding]
        content["checksum"] = fingerprint(content)
        write_whole(store / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """Read the manifest of `store`. Raises StoreError: it is missing, damaged, or of another format version."""
        content = _load(store / MANIFEST)
        facts = content["facts"]
        return cls(
            facts=facts,
            layout=Layout.from_facts(facts["store"]),
            mean=np.array(content["mean"], np.float64),
            std=np.array(content["std"], np.float64),
            files={name: FileRecord(**record) for name, record in content["files"].items()},
            rounding=np.array(content["rounding"], np.float64) if "rounding" in content else None,
        )


def remedy(store: Path) -> str:
    """The command that recreates the store at `features/<backbone>/<layer>`, or the store of refined images."""
    name = store.absolute().parent.name
    return f"run `python -m stages {'refine' if name == REFINED_FOLDER else f'extract --backbone {name}'}`"


def _load(path: Path) -> dict[str, Any]:
    store = path.parent
    if not store.is_dir():
        raise StoreError(f"{store}: there is no feature store here; {remedy(store)}")
    if not path.is_file():
        raise StoreError(f"{store} has no {MANIFEST}, so its extraction never finished; {remedy(store)}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise StoreError(f"{path} is damaged: it is not valid JSON; {remedy(store)}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise StoreError(f"{path} has format version {version}, this program reads {VERSION}; {remedy(store)}")
    if content.pop("checksum", None) != fingerprint(content):
        raise StoreError(f"{path} is damaged: its contents do not match its checksum; {remedy(store)}")
    return content


def _flatten(facts: Facts, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text
