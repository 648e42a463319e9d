"""prepare with small pictures, and what it says about its files."""

from __future__ import annotations

from pathlib import Path

from photo_trees import small_params

from pipeline.data.preparation.run import prepare
from pipeline.stores.prepared import PreparedData


def run(folder: Path, dataset: str, root: Path, *overrides: str, name: str = "prepared") -> PreparedData:
    """What `prepare` makes of the photographs in `root`, in `folder / name`; its unfinished work in `folder / work`."""
    prepare(small_params(dataset, root, *overrides), folder / name, folder / "work")
    return PreparedData.open(folder / name)


def split_of(data: PreparedData) -> dict[str, str]:
    """File → split."""
    rows = {split: data.image[data.rows(split)] for split in ("train", "validation", "test")}
    return {data.image_ids[image]: split for split, images in rows.items() for image in images}
