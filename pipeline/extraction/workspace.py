"""Unfinished extractions: `.work/extract/<backbone>-<fingerprint>/`, until the last shard is finished.

lock                 byte n is locked by the process that works on shard n
done/00012.json      written when shard 12 of every layer is finished: files, checksums, moments
<backbone>/<layer>/  the stores; renamed to features/<backbone> when complete
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import StoreError
from pipeline.core.files import can_rename, existing, write_whole
from pipeline.core.locks import LOCK, try_lock
from pipeline.extraction.moments import Moments, Rounding
from pipeline.stores.files import FileRecord, record_of
from pipeline.stores.manifest import fingerprint

AREA = "extract"  # below the work directory
PUBLISH = 1 << 40  # byte of the lock file, locked while the store is renamed into place


@dataclass(frozen=True)
class LayerShard:
    """The record of a finished shard of one layer: its files, moments of its training rows, and rounding errors."""

    files: dict[str, FileRecord]
    moments: Moments
    rounding: Rounding


class Workspace:
    """The work directory of one extraction, named after everything that determines its result."""

    def __init__(self, work: Path, backbone: str, facts: Mapping[str, object]) -> None:
        self.area, self.backbone = work / AREA, backbone
        self.path = self.area / f"{backbone}-{fingerprint(facts)[:16]}"
        self.stores = self.path / backbone

    def layer(self, layer: str) -> Path:
        """Directory of the unfinished store of `layer`."""
        return self.stores / layer

    @contextmanager
    def lock(self, shards: range) -> Iterator[None]:
        """Lock `shards` until the block or the process ends, even if the process is killed.

        Raises:
            StoreError: another process is working on one of them.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+b") as file:
            if shards and not try_lock(file, shards.start, len(shards)):  # a length of 0 would mean all
                raise StoreError(
                    f"another process is extracting {self.backbone} in {self.path}; wait for it, or give each "
                    "process shards of its own (--shards 0/2 and --shards 1/2)"
                )
            yield

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Lock the renaming of this store into place; waits while another process holds the lock."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, PUBLISH)
            yield

    def finished(self, shard: int) -> dict[str, LayerShard] | None:
        """The record of a shard, by layer; None if it is not finished."""
        path = self._record(shard)
        if not path.is_file():
            return None
        return {
            layer: LayerShard(
                {name: FileRecord(**file) for name, file in entry["files"].items()},
                Moments.from_plain(entry["moments"]),
                Rounding.from_plain(entry["rounding"]),
            )
            for layer, entry in json.loads(path.read_bytes()).items()
        }

    def intact(self, shard: int) -> bool:
        """Whether a shard is finished and its files have their checksums, which a power cut may have damaged."""
        record = self.finished(shard)
        return record is not None and all(
            (self.layer(layer) / name).is_file() and record_of(self.layer(layer) / name) == file
            for layer, entry in record.items()
            for name, file in entry.files.items()
        )

    def finish(self, shard: int, record: Mapping[str, LayerShard]) -> None:
        """Record that shard number `shard` of every layer has its final name."""
        content = {
            layer: {
                "files": {name: vars(file) for name, file in entry.files.items()},
                "moments": entry.moments.plain(),
                "rounding": entry.rounding.plain(),
            }
            for layer, entry in record.items()
        }
        write_whole(self._record(shard), json.dumps(content).encode())

    def publish(self, output: Path) -> None:
        """Rename the finished stores to `output` in one step, replacing it, and remove the workspace."""
        output.parent.mkdir(parents=True, exist_ok=True)
        replaced = self.path / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)  # left by a run that was killed here
        if output.exists():
            os.rename(output, replaced)
        os.rename(self.stores, output)
        shutil.rmtree(self.path, ignore_errors=True)  # another process may be opening its lock there now

    def discard(self) -> None:
        """Remove the workspace of a store that is in place, unless a process is working in it."""
        if self.path.is_dir():
            _remove_unused(self.path)

    def _record(self, shard: int) -> Path:
        return self.path / "done" / f"{shard:05d}.json"


def clean(work: Path, backbones: tuple[str, ...] = ()) -> list[Path]:
    """Remove unfinished extractions (of `backbones`, or all) on which no process works; return their folders."""
    removed = []
    for path in sorted((work / AREA).glob("*-*")):
        if backbones and path.name.rpartition("-")[0] not in backbones:
            continue
        if _remove_unused(path):
            removed.append(path)
    return removed


def leftovers(work: Path, backbone: str) -> list[Path]:
    """Unfinished extractions of `backbone`, whatever their parameters, data, weights or versions."""
    return [path for path in sorted((work / AREA).glob(f"{backbone}-*")) if path.name.rpartition("-")[0] == backbone]


def check_same_file_system(work: Path, output: Path) -> None:
    """Raise StoreError if a finished store cannot be renamed from `work` to `output`."""
    if not can_rename(work, output):
        raise StoreError(
            f"{work} and {output} are on different file systems, but a finished store must be moved between them in "
            f"one step; pass --work a directory on the file system of {output}"
        )


def free_bytes(path: Path) -> int:
    """Free bytes on the file system of `path`, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def _remove_unused(path: Path) -> bool:
    """Remove the workspace `path` unless a process computes or publishes in it; return whether it was removed."""
    with (path / LOCK).open("a+b") as file:
        unused = try_lock(file, 0, PUBLISH + 1)
        if unused:
            shutil.rmtree(path)
    return unused
