"""extract: run each frozen backbone once and store its layers."""

from collections.abc import Sequence

import typer

from pipeline.backbones.backbone import load_backbone
from pipeline.core.errors import ParamsError
from pipeline.core.params import BackboneParams, Params
from pipeline.core.paths import Paths
from pipeline.core.runtime import choose_device
from pipeline.extraction import run, workspace
from pipeline.stores.prepared import PreparedData


def extract(settings: Params, paths: Paths, device: str, names: Sequence[str] | None, shards: str) -> None:
    """Extract from the backbones `names`, or those of the experiment; `shards` is in the form of `parse_part`."""
    part, entries = parse_part(shards), chosen_backbones(settings, names)
    prepared, place = PreparedData.open(paths.data), choose_device(device)
    for name, entry in entries.items():
        network = load_backbone(name, entry, place)
        output = paths.features / name
        if not run.extract(network, prepared, output, settings.store, settings.extract, place, paths.work, part):
            typer.echo(f"{output} is complete when the other parts of --shards {shards} are")
        elif others := workspace.leftovers(paths.work, name):
            typer.echo(f"unfinished extractions of other settings: {', '.join(map(str, others))}; --clean removes them")


def remove_leftovers(paths: Paths, names: Sequence[str] | None) -> None:
    """Remove the unfinished work of killed or outdated extractions of these backbones, or of all."""
    for path in workspace.clean(paths.work, tuple(names or ())):
        typer.echo(f"removed {path}")


def chosen_backbones(settings: Params, names: Sequence[str] | None) -> dict[str, BackboneParams]:
    """The entries of `names`, or of the experiment's sources. Raises ParamsError: a name that params.yaml lacks."""
    known = settings.backbones
    for name in names or ():
        if name not in known:
            raise ParamsError(f"--backbone {name}: not in params.yaml; choose one of: {', '.join(sorted(known))}")
    return {name: known[name] for name in names or sorted({source.backbone for source in settings.sources})}


def parse_part(text: str) -> tuple[int, int]:
    """`0/2` → (0, 2). Raises ParamsError: another form."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise ParamsError(f"--shards {text}: must be I/N with I below N, for example 0/2 and 1/2")
    return int(index), int(parts)
