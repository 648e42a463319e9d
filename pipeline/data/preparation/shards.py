"""Decode photographs on every core and write their pixels shard by shard, so that a killed run can resume.

A shard is a block of consecutive photographs. It counts as finished when its pixel file, renamed into place when
complete, matches the record beside the work, and its photographs are still the same files.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.errors import DataError
from pipeline.core.files import whole_file
from pipeline.core.params import PrepareParams
from pipeline.core.prefetch import prefetch
from pipeline.core.progress import progress
from pipeline.data.preparation.dataset import Photograph
from pipeline.data.preparation.decoding import Decoded, decode
from pipeline.stores.prepared import SHARDS, checksum, shard_name

SHARD_BYTES = 32 * 2**20
RECORDS = "records"


@dataclass(frozen=True)
class Outcome:
    """The result of decoding one photograph."""

    sha256: str
    mode: str
    images: int
    reason: str
    content: str


@dataclass(frozen=True)
class Shard:
    """A finished shard: its files (`listing`), its size and checksum, and each photograph's outcome."""

    listing: list[list[Any]]
    images: int
    bytes: int
    crc32c: str
    outcomes: tuple[Outcome, ...]


def write_shards(photographs: Sequence[Photograph], rules: PrepareParams, work: Path, workers: int) -> list[Shard]:
    """Decode all `photographs` into `work`; shards that an earlier run finished are kept.

    Memory holds at most one shard, and 8 images for each worker. Workers are threads, because Pillow releases the
    interpreter lock while it decodes and resizes (measured in benchmarks/prepare.py).

    Raises:
        DataError: the disk is full or cannot be written.
    """
    count = max(1, SHARD_BYTES // (rules.size**2 * 3))
    blocks = [photographs[start : start + count] for start in range(0, len(photographs), count)]
    listings = [_listing(block) for block in blocks]
    found = [_finished(work, number, listing) for number, listing in enumerate(listings)]
    pending = [number for number, shard in enumerate(found) if shard is None]
    todo = [photograph for number in pending for photograph in blocks[number]]
    with (
        progress("prepare", len(photographs), "photographs", len(photographs) - len(todo)) as advance,
        contextlib.closing(_decoded(todo, rules, workers)) as stream,
    ):
        for number in pending:
            images = sum(len(photograph.image_ids) for photograph in blocks[number])
            pixels, outcomes = _collect(stream, len(blocks[number]), (images, rules.size, rules.size, 3), advance)
            found[number] = _write(work, number, listings[number], pixels, outcomes)
    _remove_strays(work, len(blocks))
    return [shard for shard in found if shard is not None]


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it, so that `path` is complete or missing.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    try:
        with whole_file(path) as part:
            write(part)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror}); free some space and run prepare again: finished shards are kept"
        ) from None


def _finished(work: Path, number: int, listing: list[list[Any]]) -> Shard | None:
    """The shard of an earlier run, or None if it is missing, damaged, or of other files."""
    record, path = _record(work, number), work / SHARDS / shard_name(number)
    if not (record.is_file() and path.is_file()):
        return None
    values = json.loads(record.read_text(encoding="utf-8"))
    shard = Shard(**{**values, "outcomes": tuple(Outcome(**outcome) for outcome in values["outcomes"])})
    if shard.listing != listing or path.stat().st_size != shard.bytes:
        return None
    return shard if checksum(np.load(path, mmap_mode="r")) == shard.crc32c else None


def _collect(
    stream: Iterator[Decoded], photographs: int, shape: tuple[int, ...], advance: Callable[[int], None]
) -> tuple[NDArray[np.uint8], tuple[Outcome, ...]]:
    """The next photographs of the stream: the pixels of the good images, and the outcome of each photograph."""
    pixels = np.empty(shape, np.uint8)
    outcomes, filled = [], 0
    for item in itertools.islice(stream, photographs):
        count = len(item.pixels)
        pixels[filled : filled + count] = item.pixels
        filled += count
        outcomes.append(Outcome(item.sha256, item.mode, count, item.reason, item.content))
        advance(1)
    return pixels[:filled], tuple(outcomes)


def _write(
    work: Path, number: int, listing: list[list[Any]], pixels: NDArray[np.uint8], outcomes: tuple[Outcome, ...]
) -> Shard:
    path = work / SHARDS / shard_name(number)
    write_file(path, partial(_save, pixels=pixels))
    shard = Shard(listing, len(pixels), path.stat().st_size, checksum(pixels), outcomes)
    text = json.dumps(asdict(shard), ensure_ascii=False)
    write_file(_record(work, number), partial(Path.write_bytes, data=text.encode()))
    return shard


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    with path.open("wb") as file:  # np.save alone would add .npy to the temporary name
        np.save(file, pixels)


def _decoded(photographs: Sequence[Photograph], rules: PrepareParams, workers: int) -> Generator[Decoded, None, None]:
    """Every photograph decoded, in order."""
    Image.init()  # loads all plugins now, because loading them in several threads at once is not safe
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # decode() refuses what cannot be used, with a reason
        yield from prefetch(photographs, partial(decode, rules=rules), workers, ahead=8 * workers)


def _remove_strays(work: Path, count: int) -> None:
    """Remove files of killed writers, and shards from when the data set was larger."""
    expected = {shard_name(number) for number in range(count)}
    for path in (work / SHARDS).iterdir():
        if path.name not in expected:
            path.unlink()


def _record(work: Path, number: int) -> Path:
    return work.parent / RECORDS / f"{number:05d}.json"


def _listing(block: Sequence[Photograph]) -> list[list[Any]]:
    """The facts that identify a block's images: ids, size and modification time of each file."""
    return [[list(photograph.image_ids), *_stamp(photograph.path)] for photograph in block]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)  # decode() gives the reason
    return (status.st_size, status.st_mtime_ns)
