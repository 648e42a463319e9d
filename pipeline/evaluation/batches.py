"""Rows in portions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def batched(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """`rows` in order, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
