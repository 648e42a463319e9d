"""`python -m stages extract`: run each frozen backbone once and keep the layers it is asked for."""

from typing import Annotated

import typer

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
    from stages.loading import load_checked

    settings = load_checked(params, overrides)

    from pipeline import extraction
    from pipeline.stores.workspace import clean as remove_leftovers

    if clean:
        for path in remove_leftovers(work, tuple(backbone or ())):
            typer.echo(f"removed {path}")
        return
    part = extraction.parse_part(shards)
    names = backbone or sorted({source.backbone for source in settings.sources})
    entries = {name: extraction.entry_of(settings, name) for name in names if name != extraction.NOTHING}
    if extraction.NOTHING in names:
        extraction.write_nothing(features / extraction.NOTHING)
    if not entries:
        return

    from pipeline.backbones import load_backbone
    from pipeline.images import PreparedData
    from pipeline.runtime import choose_device

    prepared, chosen = PreparedData.open(data), choose_device(device)
    for name, entry in entries.items():
        network = load_backbone(name, entry, chosen)
        output = features / name
        complete = extraction.extract(network, prepared, output, settings.store, settings.extract, chosen, work, part)
        if not complete:
            typer.echo(f"{output} waits for the other parts of --shards {shards}")
