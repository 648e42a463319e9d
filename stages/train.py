"""train: fit the decoder on the cached features."""

import typer

from pipeline.core.errors import NOTHING_GAINED
from pipeline.core.params import Params
from pipeline.core.paths import Paths
from pipeline.core.runtime import choose_device, enough_memory
from pipeline.stores.files import disk_errors
from pipeline.stores.prepared import PreparedData
from pipeline.training import run


def train(settings: Params, paths: Paths, device: str) -> None:
    prepared, place = PreparedData.open(paths.data), choose_device(device)
    remedy = f"set train.resident: never, lower protocols.{settings.train.protocol}.batch_size, or pass --device cpu"
    with disk_errors(f"{paths.work} or {paths.models}", "from what was saved"), enough_memory(remedy):
        model = run.train(settings, prepared, paths, place)
    if model.get("best_epoch") == 0:
        typer.echo(NOTHING_GAINED)
