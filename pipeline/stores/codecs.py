"""Compression of one chunk (a row of features): `none`, `lz4`, `zstd`.

lz4 is blosc's lz4 with a bit shuffle, zstd is plain Zstandard. Both are standard filters of both formats, so
`zarr` alone, or `h5py` with `hdf5plugin`, can read the store. This module encodes and decodes chunks itself, without
those libraries, so that several threads work at once and nothing is copied.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numcodecs import Blosc, Zstd
from numpy.typing import NDArray

BLOSC_LEVEL = 5
ZSTD_LEVEL = 1  # level 3 is 2 % smaller and several times slower to write


class Codec(Protocol):
    def encode(self, buf: NDArray[Any]) -> bytes: ...
    def decode(self, buf: NDArray[Any], out: NDArray[Any]) -> object: ...


def codec(compression: str, stored: np.dtype[Any]) -> Codec | None:
    """The codec named `compression` for elements of type `stored`; None for `none`."""
    if compression == "lz4":
        return Blosc(cname="lz4", clevel=BLOSC_LEVEL, shuffle=Blosc.BITSHUFFLE)
    if compression == "zstd":
        return Zstd(level=ZSTD_LEVEL)
    return None
