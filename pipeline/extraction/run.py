"""Extraction from start to finish: missing shards are computed and written concurrently, then put in place."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from pipeline.backbones.base import FrozenNetwork
from pipeline.core.code import NO_DECODER, digest
from pipeline.core.errors import StoreError
from pipeline.core.params import ExtractParams, StoreParams
from pipeline.core.progress import progress
from pipeline.extraction.compute import Computer
from pipeline.extraction.job import Job
from pipeline.extraction.moments import Moments, Rounding
from pipeline.extraction.sink import Sink
from pipeline.extraction.workspace import Workspace, check_same_file_system, free_bytes
from pipeline.stores.encoding import check_rounding
from pipeline.stores.files import disk_errors
from pipeline.stores.format import FORMATS
from pipeline.stores.manifest import Manifest
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

NUMBERS = ("pipeline.extraction.compute", "pipeline.extraction.moments")  # modules that compute stored numbers
QUEUED = 2  # pieces computed ahead of the writer


def extract(
    backbone: FrozenNetwork,
    data: PreparedData,
    output: Path,
    store: StoreParams,
    settings: ExtractParams,
    device: torch.device,
    work: Path,
    part: tuple[int, int] = (0, 1),
) -> bool:
    """Write a store for each of the backbone's layers, over all rows of `data`, to `output` (features/<backbone>).

    Shards that a killed run of the same extraction finished are kept.

    Args:
        work: folder of unfinished work, on the file system of `output`.
        part: (i, n) for the i-th of n equal ranges of shards. Several processes may share the work; the one that ends
            last puts the stores in place.

    Returns:
        Whether `output` is complete; False while other parts are missing.

    Raises:
        StoreError: the disk does not suffice, another process extracts the same, or features cannot be stored.
    """
    job = Job(backbone, data, store, settings, device)
    space = Workspace(work, backbone.name, {**job.facts, "code": _code(backbone)})
    if _is_current(output, job):
        space.discard()
        return True
    check_same_file_system(work, output)
    mine = job.part(*part)
    with disk_errors(work):
        with space.lock(mine):
            missing = [shard for shard in mine if not space.intact(shard)]
            require_space(job.expected_bytes(missing), f"the features of {backbone.name}", work)
            _compute(job, space, missing, done=job.count(mine) - job.count(missing))
        with space.publishing():
            return _publish(job, space, output)


def _code(backbone: FrozenNetwork) -> str:
    """A digest of the code that determines features, so that unfinished work of other code is not used.

    It is not part of a store's fingerprint, which thus survives edits that change no number; DVC recomputes finished
    stores when the code changes.
    """
    return digest(*NUMBERS, type(backbone).__module__, chosen=NO_DECODER)


def require_space(needed: int, what: str, work: Path) -> None:
    """Raise StoreError if `needed` bytes for `what` do not fit the disk of `work`."""
    free = free_bytes(work)
    if needed > free:
        raise StoreError(
            f"{what} need {needed / 1e9:.2f} GB and the disk that holds {work} has {free / 1e9:.2f} GB free; free some "
            "space, list fewer layers, or choose store.dtype: int8 or store.compression: zstd"
        )


def _compute(job: Job, space: Workspace, shards: list[int], done: int) -> None:
    batches = [rows for shard in shards for rows in job.batches(shard)]
    sink, pending = Sink(job, space), deque[Future[None]]()
    with (
        progress(f"extract {job.backbone.name}", total=done + job.count(shards), done=done) as advance,
        # not `prefetch`: when computing fails, pieces computed before are still written
        ThreadPoolExecutor(1, thread_name_prefix="shards") as writer,
    ):
        try:
            for piece in Computer(job).pieces(batches):
                if len(pending) == QUEUED:
                    pending.popleft().result()
                pending.append(writer.submit(sink.add, piece))
                advance(len(piece.rows))
            while pending:
                pending.popleft().result()
        finally:
            writer.shutdown(wait=True)  # writes the pieces computed so far
            sink.close()


def _is_current(output: Path, job: Job) -> bool:
    """Whether `output` already holds exactly these stores, undamaged."""
    found = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if found != set(job.layouts):
        return False
    for layer, facts in job.facts.items():
        try:
            store = open_store(output / layer, verify="never")
            if store.manifest.facts != facts or any(store.damage()):
                return False
        except StoreError:  # no manifest or a damaged one; this extraction replaces the store
            return False
    return True


def _publish(job: Job, space: Workspace, output: Path) -> bool:
    """Write the manifests and put the stores in place, if every shard is finished. Returns whether they are."""
    records = [record for shard in range(job.shards) if (record := space.finished(shard)) is not None]
    if len(records) < job.shards:
        current = _is_current(output, job)  # another process may just have put them in place
        if current:
            space.discard()
        return current
    for layer, layout in job.layouts.items():
        path = space.layer(layer)
        attributes = {"backbone": job.backbone.name, "layer": layer, "stored_dtype": layout.dtype}
        files = FORMATS.get(job.format)().write_metadata(path, layout, attributes)
        for record in records:
            files |= record[layer].files
        moments = Moments.merged((record[layer].moments for record in records), layout.shape.channels)
        rounding = Rounding.merged((record[layer].rounding for record in records), layout.shape.channels)
        manifest = Manifest(job.facts[layer], layout, moments.mean, moments.std, files, rounding.error)
        check_rounding(manifest.rounding_share or 0, layout.dtype, f"{job.backbone.name}.{layer}")
        manifest.write(path)
    space.publish(output)
    return True
