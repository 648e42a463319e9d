"""One pass of a frozen backbone over all rows; every layer it is asked for becomes a feature store.

Crops are read, the network runs, and shards are written at the same time, in three threads. A shard holds the
same rows in every layer, so that a killed extraction loses at most one shard of work and needs no more memory
than a few batches. Rows are computed in fixed batches that never cross a shard: a resumed run, or one of several
processes, computes exactly the bits that an undisturbed one would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbones import Backbone
from pipeline.errors import ParamsError, StoreError
from pipeline.images import PreparedData
from pipeline.params import BackboneParams, ExtractParams, Params, StoreParams
from pipeline.progress import progress
from pipeline.sources import FeatureShape, ImageSize
from pipeline.stores import FORMATS
from pipeline.stores.base import ShardWriter
from pipeline.stores.encoding import as_numpy, check_range, encode, rgb
from pipeline.stores.files import disk_errors
from pipeline.stores.layout import STORED_AS, Layout, shard_rows
from pipeline.stores.manifest import MANIFEST, Manifest
from pipeline.stores.moments import Moments
from pipeline.stores.workspace import LayerShard, Workspace, check_same_file_system, free_bytes

QUEUED = 2  # batches computed ahead of the writer
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
NOTHING = "none"  # the backbone of an unused slot of an ensemble


def extract(
    backbone: Backbone,
    data: PreparedData,
    output: Path,
    store: StoreParams,
    settings: ExtractParams,
    device: torch.device,
    work: Path,
    part: tuple[int, int] = (0, 1),
) -> bool:
    """Make `output` (features/<backbone>) hold a store for each of the backbone's layers, over all rows of `data`.

    What an earlier, killed run of the same extraction finished is used. Several processes may share the work:
    part (i, n) is the i-th of n equal ranges of shards, and whichever process finishes last puts the stores in place.

    Returns:
        Whether `output` is complete; False when other parts are still missing.

    Raises:
        StoreError: it does not fit the disk, another process is at it, or features are not finite.
    """
    job = _Job(backbone, data, store, settings, device)
    if _is_current(output, job):
        return True
    check_same_file_system(work, output)
    space = Workspace(work, backbone.name, {"layers": [job.facts[layer] for layer in job.layouts]})
    index, parts = part
    mine = range(job.shards * index // parts, job.shards * (index + 1) // parts)
    with space.lock(mine), disk_errors(work):
        missing = [shard for shard in mine if not space.intact(shard)]
        _check_space(job, missing, work)
        _compute(job, space, missing, done=job.count(mine) - job.count(missing))
    with space.publishing(), disk_errors(work):
        return _publish(job, space, output)


def entry_of(params: Params, name: str) -> BackboneParams:
    """The entry of backbone `name`. Raises ParamsError: there is none."""
    if name not in params.backbones:
        raise ParamsError(
            f"--backbone {name}: not in params.yaml; choose one of: {', '.join(sorted(params.backbones))}"
        )
    return params.backbones[name]


def parse_part(text: str) -> tuple[int, int]:
    """`0/2` → (0, 2). Raises ParamsError when it is not such a thing."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise ParamsError(f"--shards {text}: must be I/N with I below N, for example 0/2 and 1/2")
    return int(index), int(parts)


def write_nothing(output: Path) -> None:
    """The placeholder features/none/none that stands for an unused slot of an ensemble."""
    (output / NOTHING).mkdir(parents=True, exist_ok=True)
    (output / NOTHING / "unused").write_text("This slot of the ensemble holds no source.\n", encoding="utf-8")


def layouts(
    shapes: Mapping[str, FeatureShape], rows: int, store: StoreParams, settings: ExtractParams
) -> dict[str, Layout]:
    """How the layers of one backbone will lie on disk. All have the rows of their shards in common."""
    largest = max(shape.elements for shape in shapes.values()) * STORED_AS[store.dtype].itemsize
    per_shard = shard_rows(largest, store.shard_megabytes, settings.batch_size)
    return {
        layer: Layout(store.format, store.dtype, store.compression, shape, rows, min(per_shard, rows))
        for layer, shape in shapes.items()
    }


class _Job:
    """What is to be computed and how: nothing here changes while it runs, but `limit`."""

    def __init__(
        self,
        backbone: Backbone,
        data: PreparedData,
        store: StoreParams,
        settings: ExtractParams,
        device: torch.device,
    ) -> None:
        # channels-last: what image crops are anyway, and up to twice as fast in convolutions, on CPU and GPU
        self.backbone = backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.data, self.settings, self.device = data, settings, device
        shapes = backbone.shapes(ImageSize(data.crop, data.crop))
        self.layouts = layouts(shapes, len(data), store, settings)
        self.facts = {layer: self._describe(layer, layout) for layer, layout in self.layouts.items()}
        self.format = FORMATS.get(store.format)()
        self.training = np.zeros(len(data), bool)
        self.training[data.rows("train")] = True
        first = next(iter(self.layouts.values()))
        self.shards, self.rows_of = first.shards, first.rows_of
        self.limit = settings.batch_size  # halved when the device runs out of memory

    def _describe(self, layer: str, layout: Layout) -> dict[str, Any]:
        """Everything that determines the numbers of a store."""
        backbone = self.backbone.describe()
        return {
            "backbone": backbone,
            "layer": layer,
            "input": f"RGB crops of {self.data.crop}×{self.data.crop} in [0, 1], normalised by the backbone",
            "data": self.data.fingerprint,
            "precision": self.settings.precision,
            "batch_size": self.settings.batch_size,
            "device": self.device.type,
            "store": layout.facts(),
            "libraries": {name: version(name) for name in sorted({"torch", "numpy", backbone["library"]})},
        }

    def count(self, shards: Iterable[int]) -> int:
        return sum(len(self.rows_of(shard)) for shard in shards)

    def batches(self, shard: int) -> Iterator[NDArray[np.int64]]:
        rows, size = self.rows_of(shard), self.settings.batch_size
        for first in range(rows.start, rows.stop, size):
            yield np.arange(first, min(first + size, rows.stop))


class _LayerBatch(NamedTuple):
    """Encoded rows of one layer on the CPU, and their sums per row and channel, (n, C)."""

    values: Tensor
    scales: Tensor | None
    total: Tensor
    square: Tensor


@dataclass(frozen=True)
class _Piece:
    """Rows that went through the network together. On CUDA the tensors are valid once `ready` has happened."""

    rows: NDArray[np.int64]
    layers: dict[str, _LayerBatch]
    ready: torch.cuda.Event | None


class _Sink:
    """Appends pieces to the shards of all layers; runs in the writer's thread."""

    def __init__(self, job: _Job, space: Workspace) -> None:
        self._job, self._space = job, space
        self._writers: dict[str, ShardWriter] = {}
        self._moments: dict[str, Moments] = {}

    def add(self, shard: int, piece: _Piece) -> None:
        job = self._job
        if piece.ready is not None:
            piece.ready.synchronize()
        if piece.rows[0] == job.rows_of(shard).start:
            self._begin(shard)
        training = job.training[piece.rows]
        for layer, batch in piece.layers.items():
            elements = int(training.sum()) * job.layouts[layer].shape.height * job.layouts[layer].shape.width
            self._moments[layer].add(elements, batch.total.numpy()[training], batch.square.numpy()[training])
            self._writers[layer].append(as_numpy(batch.values), None if batch.scales is None else batch.scales.numpy())
        if piece.rows[-1] == job.rows_of(shard)[-1]:
            self._end(shard)

    def _begin(self, shard: int) -> None:
        for layer, layout in self._job.layouts.items():
            self._moments[layer] = Moments.empty(layout.shape.channels)
            self._writers[layer] = self._job.format.write_shard(self._space.layer(layer), layout, shard)

    def _end(self, shard: int) -> None:
        record = {layer: LayerShard(writer.finish(), self._moments[layer]) for layer, writer in self._writers.items()}
        self._writers = {}
        self._space.finish(shard, record)

    def close(self) -> None:
        """Drop what is unfinished, after an error."""
        for writer in self._writers.values():
            writer.abort()


def _compute(job: _Job, space: Workspace, shards: list[int], done: int) -> None:
    batches = [(shard, rows) for shard in shards for rows in job.batches(shard)]
    sink, pending = _Sink(job, space), deque[Future[None]]()
    name = f"extract {job.backbone.name}"
    with (
        progress(name, total=done + job.count(shards), done=done) as advance,
        ThreadPoolExecutor(1) as writer,
        _float32_is_float32(),
    ):
        try:
            crops = _prefetched(job, [rows for _, rows in batches])
            for (shard, rows), pixels in zip(batches, crops, strict=True):
                for piece in _pieces(job, rows, pixels):
                    while len(pending) >= QUEUED:
                        pending.popleft().result()
                    pending.append(writer.submit(sink.add, shard, piece))
                advance(len(rows))
            for waiting in pending:
                waiting.result()
        finally:
            writer.shutdown(wait=True, cancel_futures=True)
            sink.close()


def _prefetched(job: _Job, batches: list[NDArray[np.int64]]) -> Iterator[Tensor]:
    """The crops of each batch, (B, H, W, 3) uint8, read one batch ahead (into pinned memory for CUDA)."""
    cuda, crop = job.device.type == "cuda", job.data.crop

    def load(rows: NDArray[np.int64]) -> Tensor:
        pixels = torch.empty((len(rows), crop, crop, 3), dtype=torch.uint8, pin_memory=cuda)
        job.data.crops(rows, pixels.numpy())
        return pixels

    with ThreadPoolExecutor(1) as loader:
        coming = deque(loader.submit(load, rows) for rows in batches[:2])
        for rows in [*batches[2:], None, None][: len(batches)]:
            pixels = coming.popleft().result()
            if rows is not None:
                coming.append(loader.submit(load, rows))
            yield pixels


def _pieces(job: _Job, rows: NDArray[np.int64], pixels: Tensor) -> Iterator[_Piece]:
    """Features of a batch: in one piece, or in several once the device has run out of memory."""
    start = 0
    while start < len(rows):
        chosen = slice(start, start + job.limit)
        piece = _attempt(job, rows[chosen], pixels[chosen])
        if piece is None:
            if job.limit == 1:
                raise StoreError(
                    f"{job.device} has no room for one image of {job.data.crop} pixels in {job.backbone.name}; "
                    "free the device's memory, or use --device cpu"
                )
            job.limit = -(-min(job.limit, len(rows)) // 2)
            continue
        start += len(piece.rows)
        yield piece


def _attempt(job: _Job, rows: NDArray[np.int64], pixels: Tensor) -> _Piece | None:
    """Features of `rows`; None when the device's memory does not suffice."""
    try:
        return _forward(job, rows, pixels)
    except torch.OutOfMemoryError:
        pass  # what the failed pass holds is only released once this block has been left
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


@torch.inference_mode()
def _forward(job: _Job, rows: NDArray[np.int64], pixels: Tensor) -> _Piece:
    cuda, precision = job.device.type == "cuda", job.settings.precision
    images = rgb(pixels.to(job.device, non_blocking=True))
    with torch.autocast(job.device.type, AUTOCAST.get(precision), enabled=precision != "fp32"):
        features = job.backbone(images)
    layers = {}
    for layer, layout in job.layouts.items():
        found = features.pop(layer).float()
        total, square = found.sum((2, 3)), found.square().sum((2, 3))  # (B, C)
        check_range(found, square, layout.dtype, f"{job.backbone.name}.{layer}")
        encoded = encode(found, layout.dtype)
        moved = [None if t is None else _to_host(t, cuda) for t in (*encoded, total, square)]
        layers[layer] = _LayerBatch(*moved)  # type: ignore[arg-type]
    return _Piece(rows, layers, torch.cuda.current_stream().record_event() if cuda else None)


def _to_host(values: Tensor, cuda: bool) -> Tensor:
    if not cuda:
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


@contextmanager
def _float32_is_float32() -> Iterator[None]:
    """fp32 means fp32 on the GPU as well: no TF32 inside."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _is_current(output: Path, job: _Job) -> bool:
    """Whether `output` already holds exactly these stores, undamaged."""
    found = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if found != set(job.layouts):
        return False
    for layer, facts in job.facts.items():
        path = output / layer
        if not (path / MANIFEST).is_file():
            return False
        manifest = Manifest.read(path)
        if manifest.facts != facts or any(job.format.open(path, manifest, "never").damage()):
            return False
    return True


def _check_space(job: _Job, missing: list[int], work: Path) -> None:
    whole = sum(layout.expected_bytes for layout in job.layouts.values())
    needed = round(whole * job.count(missing) / max(len(job.data), 1))
    require_space(needed, f"the features of {job.backbone.name}", work)


def require_space(needed: int, what: str, work: Path) -> None:
    """Raises StoreError when `needed` bytes do not fit the disk of `work`."""
    free = free_bytes(work)
    if needed > free:
        raise StoreError(
            f"{what} need {needed / 1e9:.2f} GB and the disk that holds {work} has {free / 1e9:.2f} GB free; free some "
            "space, list fewer layers, or choose store.dtype: int8 or store.compression: zstd"
        )


def _publish(job: _Job, space: Workspace, output: Path) -> bool:
    """Write the manifests and put the stores in place, if every shard is there."""
    records = [space.finished(shard) for shard in range(job.shards)]
    complete = [record for record in records if record is not None]
    if len(complete) < job.shards:
        return _is_current(output, job)  # another process may just have put it there
    for layer, layout in job.layouts.items():
        path = space.layer(layer)
        attributes = {"backbone": job.backbone.name, "layer": layer, "stored_dtype": layout.dtype}
        files = job.format.write_metadata(path, layout, attributes)
        for record in complete:
            files |= record[layer].files
        moments = Moments.sum((record[layer].moments for record in complete), layout.shape.channels)
        Manifest(job.facts[layer], layout, moments.mean, moments.std, files).write(path)
    space.publish(output)
    return True
