"""Reading and writing: every reader on the same rows, in shuffled batches of 16, warm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import h5py
import hdf5plugin  # noqa: F401  (filters for h5py)
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks.bars import Bar, Line, against, seconds, side_by_side
from pipeline.core.sources import FeatureShape
from pipeline.loading.sampler import windows
from pipeline.loading.slots import Slot, fill_ahead, new_slots
from pipeline.stores.base import FeatureStore
from pipeline.stores.encoding import as_numpy, decode, encode
from pipeline.stores.files import FileRecord
from pipeline.stores.format import FORMATS
from pipeline.stores.layout import Layout, shard_rows
from pipeline.stores.manifest import Manifest
from pipeline.stores.opening import open_store

BATCH = 16
DTYPE_BARS = {"float16": Bar(at_most=3e-4), "bfloat16": Bar(at_most=2e-3), "int8": None}


def write_store(
    path: Path, features: NDArray[np.float16], format: str, compression: str = "none", megabytes: int = 128
) -> FeatureStore:
    """A finished store of `features` (rows, C, H, W), written in batches as an extraction does."""
    shape = FeatureShape(*features.shape[1:])
    row_bytes = shape.elements * 2
    rows_each = shard_rows(row_bytes, megabytes, BATCH)
    layout = Layout(format, "float16", compression, shape, len(features), rows_each)
    backend = FORMATS.get(format)()
    files: dict[str, FileRecord] = {}
    for shard in range(layout.shards):
        writer, rows = backend.write_shard(path, layout, shard), layout.rows_of(shard)
        for first in range(rows.start, rows.stop, BATCH):
            writer.append(features[first : min(first + BATCH, rows.stop)], None)
        files |= writer.finish()
    files |= backend.write_metadata(path, layout, {"stored_dtype": "float16"})
    nothing = np.zeros(shape.channels)
    facts = {"backbone": {"name": path.parent.name}, "layer": path.name, "data": "benchmark", "store": layout.facts()}
    Manifest(facts, layout, nothing, nothing, files).write(path)
    return open_store(path)


class Rows(Dataset[torch.Tensor]):
    """What a worker process of a DataLoader reads: a whole batch at a time, its best case."""

    def __init__(self, store: FeatureStore, plan: list[NDArray[np.int64]]) -> None:
        self.store, self.plan = store, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> torch.Tensor:
        out = np.empty((BATCH, *self.store.layout.row_shape), self.store.layout.stored)
        self.store.read_into(self.plan[index], out)
        return torch.from_numpy(out)


def through(store: FeatureStore, plan: list[NDArray[np.int64]], out: NDArray[np.float16]) -> Callable[[], object]:
    """Our reader, one batch after the other into the same memory."""

    def run() -> None:
        for rows in plan:
            store.read_into(rows, out)

    return run


def ring(store: FeatureStore, plan: list[NDArray[np.int64]]) -> Callable[[], object]:
    """Our reader in the prefetching ring."""
    slots = new_slots(4, [store], 1, torch.device("cpu"))

    def read(slot: Slot, rows: NDArray[np.int64]) -> None:
        store.read_into(rows, as_numpy(slot.reserve(rows).values[0]))

    return lambda: [None for _ in fill_ahead(plan, read, slots, threads=2)]


def readers(
    root: Path, features: NDArray[np.float16], plan: list[NDArray[np.int64]]
) -> dict[str, Callable[[], object]]:
    """Each goes once through `plan`."""
    root.mkdir()
    features.tofile(root / "raw")
    raw = np.memmap(root / "raw", np.float16, mode="r", shape=features.shape)
    stores = {
        (format, codec): write_store(root / format / codec, features, format, compression=codec)
        for format in ("zarr", "hdf5")
        for codec in ("none", "lz4", "zstd")
    }
    out = np.empty((BATCH, *features.shape[1:]), np.float16)
    array = zarr.open_array(root / "zarr/none/features.zarr", mode="r")
    dataset = h5py.File(root / "hdf5/none/features.h5")["features"]

    def memmap() -> None:
        for rows in plan:
            for position, row in enumerate(rows):
                out[position] = raw[row]

    def zarr_rows() -> None:
        for rows in plan[: max(1, len(plan) // 8)]:
            for position, row in enumerate(rows):
                out[position] = array[row]

    def zarr_oindex() -> None:
        out[:] = array.oindex[plan[0]]

    def h5py_rows() -> None:
        for rows in plan[: max(1, len(plan) // 4)]:
            for position, row in enumerate(rows):
                dataset.read_direct(out, np.s_[row], np.s_[position])

    loader = DataLoader(Rows(stores["zarr", "none"], plan), batch_size=None, num_workers=2, persistent_workers=True)
    return {
        "np.memmap": memmap,
        "zarr, our reader": through(stores["zarr", "none"], plan, out),
        "hdf5, our reader": through(stores["hdf5", "none"], plan, out),
        "plain zarr, array[row]": zarr_rows,
        "plain zarr, array.oindex[rows]": zarr_oindex,
        "plain h5py, read_direct": h5py_rows,
        "zarr lz4, our reader": through(stores["zarr", "lz4"], plan, out),
        "zarr lz4, ring of 2 threads": ring(stores["zarr", "lz4"], plan),
        "hdf5 lz4, our reader": through(stores["hdf5", "lz4"], plan, out),
        "zarr zstd, our reader": through(stores["zarr", "zstd"], plan, out),
        "DataLoader, 2 workers": lambda: [None for _ in loader],
        "ring of 2 threads": ring(stores["zarr", "none"], plan),
    }


SHARE = {"plain zarr, array[row]": 1 / 8, "plain h5py, read_direct": 1 / 4}


def reading(root: Path, features: NDArray[np.float16], bar: float, rounds: int) -> list[Line]:
    """Speed of every reader on `features` (rows, C, H, W), and sizes of the compact stores."""
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(len(features)) for _ in range(2)])
    plan = np.split(order[: len(order) // BATCH * BATCH], len(order) // BATCH)
    total = len(plan) * BATCH * features[0].nbytes / 1e6
    share = {"plain zarr, array.oindex[rows]": 1 / len(plan)} | {
        name: max(1, int(len(plan) * part)) / len(plan) for name, part in SHARE.items()
    }
    runs = {
        name: (lambda name=name, run=run: total * share.get(name, 1) / seconds(run))
        for name, run in readers(root, features, plan).items()
    }
    found = side_by_side(runs, rounds)
    kilobytes = features[0].nbytes / 1000
    bars = {"zarr, our reader": Bar(at_least=bar), "zarr lz4, our reader": Bar(at_least=0.1)}
    lines = [
        Line(
            f"{kilobytes:,.0f} kB rows: {name}",
            f"{median(speeds):,.0f} MB/s",
            against(speeds, found["np.memmap"]),
            bars.get(name),
        )
        for name, speeds in found.items()
    ]
    ring = against(found["ring of 2 threads"], found["DataLoader, 2 workers"])
    lines.append(
        Line(f"{kilobytes:,.0f} kB rows: ring of 2 threads / DataLoader of 2 workers", "", ring, Bar(at_least=3))
    )
    return lines


def sizes(root: Path, features: NDArray[np.float16]) -> list[Line]:
    """Compact stores beside the plain one; written by `reading` before."""
    lines = []
    for format in ("zarr", "hdf5"):
        for codec in ("none", "lz4", "zstd"):
            stored = open_store(root / format / codec).bytes
            bar = Bar(at_most=0.75) if codec == "lz4" else None
            lines.append(Line(f"size of {format} {codec}", f"{stored / 1e6:,.0f} MB", stored / features.nbytes, bar))
    return lines


def writing(root: Path, features: NDArray[np.float16], rounds: int) -> list[Line]:
    """Our writer, and zarr's own: whole shards, and batches of 16 into the same shards."""
    counter = iter(range(10**6))
    features = features[:128]

    def plain(step: int) -> None:
        array = zarr.create_array(
            root / f"plain{next(counter)}.zarr",
            shape=features.shape,
            dtype="float16",
            chunks=(1, *features.shape[1:]),
            shards=(64, *features.shape[1:]),
            compressors=None,
            config={"write_empty_chunks": True},
        )
        for first in range(0, len(features), step):
            array[first : first + step] = features[first : first + step]

    runs = {
        "our writer, batches of 16": lambda: write_store(root / f"w{next(counter)}" / "l", features, "zarr"),
        "our HDF5 writer, batches of 16": lambda: write_store(root / f"w{next(counter)}" / "l", features, "hdf5"),
        "plain zarr, whole shards": lambda: plain(64),
        "plain zarr, batches of 16": lambda: plain(BATCH),
    }
    total = features.nbytes / 1e6
    found = side_by_side({name: lambda run=run: total / seconds(run) for name, run in runs.items()}, rounds)  # type: ignore[misc]
    slow = found["plain zarr, batches of 16"]
    return [
        Line(
            f"writing: {name}",
            f"{median(speeds):,.0f} MB/s",
            against(speeds, slow),
            Bar(at_least=3) if name.startswith("our") else None,
        )
        for name, speeds in found.items()
    ]


def fidelity(features: torch.Tensor) -> list[Line]:
    """Relative RMS error of each stored type on float32 `features` (rows, C, H, W)."""
    lines = []
    for dtype, bar in DTYPE_BARS.items():
        encoded = encode(features, dtype)
        error = decode(encoded.values, encoded.scales, dtype) - features
        relative = float(error.square().mean().sqrt() / features.square().mean().sqrt())
        lines.append(Line(f"relative RMS error of {dtype}", "", relative, bar))
    return lines


def cold(root: Path, features: NDArray[np.float16], rounds: int) -> list[Line]:
    """A store larger than memory, imitated: of what was read nothing stays in the page cache but the window in use."""
    path, shards = root / "cold", 2
    layout = write_store(path, features, "zarr", megabytes=16).layout
    out = np.empty((BATCH, *features.shape[1:]), np.float16)

    def forget() -> FeatureStore:
        for file in path.rglob("c.*"):
            with file.open("rb") as opened:
                os.fdatasync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return open_store(path, verify="never")

    def epoch(parts: list[NDArray[np.int64]], hint: bool) -> float:
        spent = 0.0
        for part in parts:
            store = forget()

            def read(store: FeatureStore = store, part: NDArray[np.int64] = part) -> None:
                if hint:
                    store.will_need(part)
                for first in range(0, len(part) - BATCH + 1, BATCH):
                    store.read_into(part[first : first + BATCH], out)

            spent += seconds(read)
            del store, read
        return features.nbytes / 1e6 / spent

    random = np.random.default_rng(0)
    windowed = windows(np.arange(len(features)), layout.shard_rows, shards, random)
    shuffled = np.split(random.permutation(len(features)), np.cumsum([len(part) for part in windowed])[:-1])
    runs = {"fully shuffled": lambda: epoch(shuffled, False), "shuffled in windows": lambda: epoch(windowed, True)}
    found = side_by_side(runs, rounds)
    kilobytes = features[0].nbytes / 1000
    return [
        Line(
            f"cold, {kilobytes:,.0f} kB rows: {name}",
            f"{median(speeds):,.0f} MB/s",
            against(speeds, found["fully shuffled"]),
        )
        for name, speeds in found.items()
    ]
