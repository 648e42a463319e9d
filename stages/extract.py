"""`python -m stages extract`: run each frozen backbone once and keep the layers it is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.core.errors import ParamsError
from stages.options import (
    FEATURES,
    PARAMS,
    PREPARED,
    WORK,
    Device,
    FeaturesDir,
    Overrides,
    ParamsFile,
    PreparedDir,
    WorkDir,
)

if TYPE_CHECKING:
    from pipeline.core.params import BackboneParams, Params

Backbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", metavar="NAME", help="A backbone of params.yaml; repeatable. Default: the experiment's."
    ),
]
Clean = Annotated[bool, typer.Option("--clean", help="Only remove the leftovers of killed or outdated extractions.")]
Shards = Annotated[
    str, typer.Option(metavar="I/N", help="Extract the I-th of N equal parts, beside other processes: 0/2 and 1/2.")
]


def extract(
    backbone: Backbones = None,
    data: PreparedDir = PREPARED,
    features: FeaturesDir = FEATURES,
    work: WorkDir = WORK,
    device: Device = "auto",
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    shards: Shards = "0/1",
    clean: Clean = False,
) -> None:
    """Run each frozen backbone once over all photographs and store the activations of its layers."""
    from pipeline.core.params import NONE

    if NONE in (backbone or ()) and not clean:
        write_placeholder(features)
        backbone = [name for name in backbone or () if name != NONE]
        if not backbone:  # known before torch is loaded
            return

    from stages.loading import load_checked

    settings = load_checked(params, overrides)

    from pipeline.extraction import run as extraction
    from pipeline.extraction.workspace import clean as remove_leftovers
    from pipeline.extraction.workspace import leftovers

    if clean:
        for path in remove_leftovers(work, tuple(backbone or ())):
            typer.echo(f"removed {path}")
        return
    part, entries = parse_part(shards), chosen_backbones(settings, backbone)

    from pipeline.backbones.backbone import load_backbone
    from pipeline.core.runtime import choose_device
    from pipeline.stores.prepared import PreparedData

    prepared, place = PreparedData.open(data), choose_device(device)
    for name, entry in entries.items():
        network = load_backbone(name, entry, place)
        output = features / name
        if not extraction.extract(network, prepared, output, settings.store, settings.extract, place, work, part):
            typer.echo(f"{output} waits for the other parts of --shards {shards}")
        elif others := leftovers(work, name):
            typer.echo(f"unfinished extractions of other settings: {', '.join(map(str, others))}; --clean removes them")


def write_placeholder(features: Path) -> None:
    """What stands for an unused slot of an ensemble: the DVC stage of a backbone called none has an output, too."""
    from pipeline.core.files import write_whole

    write_whole(features / "none" / "none" / "unused", b"This slot of the ensemble holds no source.\n")


def chosen_backbones(settings: "Params", names: list[str] | None) -> "dict[str, BackboneParams]":
    """The entries of `names`, or of the experiment's sources. Raises ParamsError: a name that params.yaml lacks."""
    known = settings.backbones
    for name in names or ():
        if name not in known:
            raise ParamsError(f"--backbone {name}: not in params.yaml; choose one of: {', '.join(sorted(known))}")
    return {name: known[name] for name in names or sorted({source.backbone for source in settings.sources})}


def parse_part(text: str) -> tuple[int, int]:
    """`0/2` → (0, 2). Raises ParamsError when it is not such a thing."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise ParamsError(f"--shards {text}: must be I/N with I below N, for example 0/2 and 1/2")
    return int(index), int(parts)
