"""`folder`: photographs of your own, in folders for each split or split by fractions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core.errors import DataError, ParamsError
from pipeline.core.section import Section
from pipeline.data.preparation.dataset import DATASETS, Dataset, Photograph
from pipeline.data.preparation.listing import FolderOptions, photographs_in, root_folder
from pipeline.stores.prepared import SPLITS, Split

TREE = """\
  {root}/…                 photographs, in folders or not, split by the fractions
or a folder for each split you name (train, validation, test):
  {root}/train/…  {root}/test/…
set datasets.folder.root to the folder of your photographs"""


class Folders(Section):
    """A folder for each split, below root. A separate base class, because the rule on fractions reads these fields."""

    train: str | None
    validation: str | None
    test: str | None


@DATASETS.register("folder")
class Folder(Dataset):
    """Each named folder is a split; the other photographs are drawn by the fractions of the splits without a folder.

    The other photographs are those of the `train` folder if it is named, else all below root outside the named folders.
    """

    class Options(FolderOptions, Folders):
        pass

    name = "folder"
    licence = "the licence of your photographs"
    options: Options

    def photographs(self) -> Sequence[Photograph]:
        root = Path(os.path.normpath(root_folder(self.options.root, "datasets.folder.root", TREE)))
        named = self._named(root)
        held_out = {split: folder for split, folder in named.items() if split != "train"}
        found = [
            photograph
            for split, folder in held_out.items()
            for photograph in photographs_in(root, folder, f"datasets.folder.{split}", split)
        ]
        if "train" in named:
            found += photographs_in(root, named["train"], "datasets.folder.train", self._rest())
        else:
            taken = {photograph.id for photograph in found}
            rest = photographs_in(root, root, "datasets.folder.root", self._rest())
            found += [photograph for photograph in rest if photograph.id not in taken]
        return sorted(found, key=lambda photograph: photograph.id)

    def fractions(self) -> Mapping[Split, float]:
        shares: dict[Split, float] = {
            "validation": self.options.validation_fraction,
            "test": self.options.test_fraction,
        }
        return {split: share for split, share in shares.items() if self._folder(split) is None}

    def _rest(self) -> Split | None:
        """The split of photographs outside the held-out folders: train if both have folders, else drawn (None)."""
        return None if self.fractions() else "train"

    def _folder(self, split: Split) -> str | None:
        return {"train": self.options.train, "validation": self.options.validation, "test": self.options.test}[split]

    def _named(self, root: Path) -> dict[Split, Path]:
        """The named folders, after a check that they lie below root and do not overlap."""
        named: dict[Split, Path] = {}
        for split in SPLITS:
            name, key = self._folder(split), f"datasets.folder.{split}"
            if name is None:
                continue
            folder = Path(os.path.normpath(root / name))
            if root not in folder.parents:  # by name: the folder may be a link to another disk
                raise ParamsError(f"params.yaml: {key} = {name!r} must be a folder below datasets.folder.root ({root})")
            if not folder.is_dir():
                raise DataError(f"{key} = {name!r}: '{folder}' is not a folder; create it or set {key} to null")
            _check_apart(key, folder, named)
            named[split] = folder
        return named


def _check_apart(key: str, folder: Path, named: Mapping[Split, Path]) -> None:
    for split, other in named.items():
        one, two = folder.resolve(), other.resolve()
        if one.is_relative_to(two) or two.is_relative_to(one):
            raise ParamsError(
                f"params.yaml: {key} ('{folder}') and datasets.folder.{split} ('{other}') overlap; a photograph can be "
                "in one split only"
            )
