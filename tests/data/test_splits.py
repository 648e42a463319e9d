"""Which split a photograph falls into: by the seed and its key alone, in no order of names."""

from __future__ import annotations

import numpy as np
from photo_trees import picture

from pipeline.data.preparation.splits import assign_splits


def test_splits_depend_on_the_seed_and_the_keys_alone() -> None:
    keys = [f"{i}" for i in range(100)]
    first = assign_splits(keys, {"validation": 0.1, "test": 0.2}, 42)
    assert first == assign_splits(reversed(keys), {"validation": 0.1, "test": 0.2}, 42)
    assert first != assign_splits(keys, {"validation": 0.1, "test": 0.2}, 43)
    more = assign_splits([*keys, "another"], {"validation": 0.1, "test": 0.2}, 42)
    assert sum(first[key] != more[key] for key in keys) <= 2  # only at the boundaries


def test_splits_are_not_sorted_by_name() -> None:
    keys = [f"{i:03d}" for i in range(300)]
    test = [int(key) for key, split in assign_splits(keys, {"test": 0.5}, 0).items() if split == "test"]
    assert 130 < np.mean(test) < 170
    assert not np.array_equal(picture(0), picture(1))
