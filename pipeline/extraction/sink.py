"""Write pieces of features to the shards of every layer, in the writer's thread."""

from __future__ import annotations

from pipeline.extraction.compute import Piece, measured
from pipeline.extraction.job import Job
from pipeline.extraction.moments import Moments, Rounding
from pipeline.extraction.workspace import LayerShard, Workspace
from pipeline.stores.encoding import as_numpy
from pipeline.stores.format import FORMATS, ShardWriter


class Sink:
    """Appends pieces, which arrive in order of rows, to their shards."""

    def __init__(self, job: Job, space: Workspace) -> None:
        self._job, self._space = job, space
        self._format = FORMATS.get(job.format)()
        self._writers: dict[str, ShardWriter] = {}
        self._moments: dict[str, Moments] = {}
        self._rounding: dict[str, Rounding] = {}
        self._failed = False

    def add(self, piece: Piece) -> None:
        """Write a piece; the last piece of a shard renames the shard's files and records it as finished.

        After an error nothing more is written, because later pieces would go to the wrong rows.
        """
        if self._failed:
            return
        self._failed = True
        piece.wait()
        shard = int(piece.rows[0]) // len(self._job.rows_of(0))
        rows = self._job.rows_of(shard)
        if piece.rows[0] == rows.start:
            self._begin(shard)
        for layer in piece.layers:
            self._append(layer, piece)
        if piece.rows[-1] == rows[-1]:
            self._end(shard)
        self._failed = False

    def close(self) -> None:
        """Discard the unfinished shard."""
        for writer in self._writers.values():
            writer.abort()
        self._writers = {}

    def _begin(self, shard: int) -> None:
        for layer, layout in self._job.layouts.items():
            self._moments[layer] = Moments.empty(layout.shape.channels)
            self._rounding[layer] = Rounding.empty(layout.shape.channels)
            self._writers[layer] = self._format.write_shard(self._space.layer(layer), layout, shard)

    def _append(self, layer: str, piece: Piece) -> None:
        found, shape = piece.layers[layer], self._job.layouts[layer].shape
        training = self._job.training[piece.rows]
        elements = shape.height * shape.width
        self._moments[layer].add(elements, found.mean.numpy()[training], found.squares.numpy()[training])
        self._rounding[layer].add(elements * len(measured(piece.rows)), found.errors.numpy().sum(axis=0))
        scales = None if found.scales is None else found.scales.numpy()
        self._writers[layer].append(as_numpy(found.values), scales)

    def _end(self, shard: int) -> None:
        record = {
            layer: LayerShard(writer.finish(), self._moments[layer], self._rounding[layer])
            for layer, writer in self._writers.items()
        }
        self._writers = {}
        self._space.finish(shard, record)
