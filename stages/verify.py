"""verify: read every byte of the feature stores and compare it with the checksums."""

from collections.abc import Sequence
from pathlib import Path

import typer

from pipeline.core.errors import StoreError
from pipeline.core.paths import Paths
from pipeline.core.progress import progress
from pipeline.loading.inputs import REFINED_IMAGES
from pipeline.stores.opening import find_stores, open_store


def verify(folders: Sequence[Path] | None) -> None:
    """Verify the stores below `folders`, by default those of this project. Raises StoreError with all damage found."""
    usual = Paths.below(Path())
    refined = usual.first_stage / REFINED_IMAGES
    folders = folders or [usual.features, *([refined] if refined.is_dir() else [])]
    places = [place for folder in folders for place in find_stores(folder)]
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
    typer.echo(f"{len(stores)} feature stores are intact")
