"""`python -m stages verify`: read every byte of the feature stores and compare with the checksums."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import StoreError
from stages.options import FEATURES, FIRST_STAGE

Places = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Directories of stores. Default: features, and the images in data/first_stage.",
    ),
]


def verify(paths: Places = None) -> None:
    """Check every file of the feature stores below each PATH; list all damage, and fail if there is any."""
    from pipeline.core.progress import progress
    from pipeline.loading.inputs import REFINED_IMAGES
    from pipeline.stores.opening import find_stores, open_store

    refined = [FIRST_STAGE / REFINED_IMAGES] if (FIRST_STAGE / REFINED_IMAGES).is_dir() else []
    places = [place for path in paths or [FEATURES, *refined] for place in find_stores(path)]
    problems, stores = [], []
    for place in places:
        try:
            stores.append(open_store(place, verify="never"))
        except StoreError as error:
            problems.append(str(error))
    with progress("verify", sum(store.bytes for store in stores) // 10**6, unit="MB") as advance:
        for store in stores:
            for name, record in store.manifest.files.items():
                problems += [problem] if (problem := store.damage_of(name)) is not None else []
                advance(record.bytes // 10**6)
    if problems:
        raise StoreError("\n".join(problems))
    typer.echo(f"{len(stores)} feature stores are whole")
