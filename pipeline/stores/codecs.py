"""Compression of one chunk (a row of features): `none`, `lz4`, `zstd`.

lz4 is blosc's lz4 behind a bit shuffle, zstd is plain Zstandard: both backends have them as standard filters, so
that `zarr` alone, or `h5py` with `hdf5plugin`, reads the store. Chunks are encoded and decoded here and not by
those libraries, because that runs in several threads at once and needs no copy.
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
    """The codec called `compression` for elements of type `stored`; None when nothing is compressed."""
    if compression == "lz4":
        return Blosc(cname="lz4", clevel=BLOSC_LEVEL, shuffle=Blosc.BITSHUFFLE)
    if compression == "zstd":
        return Zstd(level=ZSTD_LEVEL)
    return None
