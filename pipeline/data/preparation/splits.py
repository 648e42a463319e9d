"""Seeded splits that do not depend on the order of listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from pipeline.stores.prepared import Split


def seeded_order(keys: Iterable[str], seed: int) -> list[str]:
    """The distinct `keys` in an order that depends only on `seed` and on each key, not on their listing."""
    return sorted(set(keys), key=lambda key: (hashlib.sha256(f"{seed}/{key}".encode()).digest(), key))


def assign_splits(keys: Iterable[str], fractions: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Split `keys` by `fractions` (validation and test, each in [0, 1)); the others are for training.

    Counts are exact: 0.2 of 800 keys is 160 keys. An additional key moves only keys at the boundaries.
    """
    order = seeded_order(keys, seed)
    test = round(fractions.get("test", 0.0) * len(order))
    validation = round(fractions.get("validation", 0.0) * len(order))
    splits: dict[str, Split] = dict.fromkeys(order, "train")
    splits.update(dict.fromkeys(order[:test], "test"))
    splits.update(dict.fromkeys(order[test : test + validation], "validation"))
    return splits
