"""Row numbers: in portions, and a few of many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

READ_BATCH = 16  # rows read at a time: no hyper-parameter


def batched(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """`rows` in order, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def spread(total: int, count: int) -> list[int]:
    """At most `count` positions, evenly over `total`, first and last among them."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))
