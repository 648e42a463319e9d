"""List photographs in folders, with error messages for missing folders and unexpected files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import Field, ValidationInfo, field_validator

from pipeline.core.errors import DataError
from pipeline.core.files import printable
from pipeline.core.progress import counted
from pipeline.core.section import Count, Fraction, Section
from pipeline.data.preparation.dataset import Photograph
from pipeline.data.preparation.splits import seeded_order
from pipeline.stores.prepared import Split

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".jp2"}
)
SHOWN = 10  # files listed in an error
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")


class FolderOptions(Section):
    """The photographs' root, and the fractions for photographs without a fixed split."""

    root: Annotated[str, Field(min_length=1)]
    validation_fraction: Fraction
    test_fraction: Fraction

    @field_validator("test_fraction")
    @classmethod
    def _something_is_left(cls, value: float, info: ValidationInfo) -> float:
        shares = {"validation": info.data.get("validation_fraction", 0.0), "test": value}
        total = sum(share for split, share in shares.items() if not info.data.get(split))  # a folder needs no share
        if total >= 1:
            raise ValueError(f"must leave photographs for training, but with validation_fraction it takes {total:.0%}")
        return value


class SubsetOptions(FolderOptions):
    """Options of a large data set, of which a seeded subset may be used."""

    images: Count | None


@dataclass(frozen=True)
class Numbered:
    """File names of a known data set: `pattern` matches the name without its ending; its group is the number."""

    pattern: str
    first: int
    last: int
    example: str

    def number(self, path: Path) -> int | None:
        """The number in the file's name; None if the name does not belong to the data set."""
        match = re.fullmatch(self.pattern, path.stem)
        return int(match[1]) if match and self.first <= int(match[1]) <= self.last else None


def root_folder(root: str, key: str, tree: str, folders: Sequence[str] = ()) -> Path:
    """The root as a path, after a check that it and its `folders` exist.

    Args:
        root, key: the value in params.yaml, and its key.
        tree: the expected tree and the source of the data, for the message; {root} is filled in.

    Raises:
        DataError: a folder is missing.
    """
    path = Path(root).expanduser()
    missing = next((folder for folder in (path, *(path / name for name in folders)) if not folder.is_dir()), None)
    if missing is not None:
        raise DataError(f"{key} = '{root}': '{missing}' is not a folder; expected:\n{tree.format(root=root)}")
    return path


def photographs_in(
    root: Path,
    folder: Path,
    key: str,
    split: Split | None = None,
    most: int | None = None,
    names: Numbered | None = None,
) -> list[Photograph]:
    """Every photograph below `folder`, sorted by id: its path relative to `root`.

    The ending of a file's name or its first bytes make it a candidate; decoding decides whether it is a photograph.
    Hidden files (`._0001.png` of macOS archives) are skipped.

    Args:
        key: the key in params.yaml, for the messages.
        split: the split of all of them, or None if the data set's fractions decide.
        most: the number of photographs in the complete data set. names: its file names.

    Raises:
        DataError: there is no photograph, there are more than `most`, a name does not match `names`, two have one
            number, or a folder cannot be listed.
    """
    found = [path for path in _files(folder) if _is_candidate(path)]
    if not found:
        known = ", ".join(sorted(SUFFIXES))
        raise DataError(f"{key}: '{folder}' holds no photographs; put some there ({known}, or recognised by content)")
    if names:
        _check_names(found, names, folder, key)
    if most is not None and len(found) > most:
        raise DataError(
            f"{key}: '{folder}' holds {counted(len(found), 'photograph')}, more than the {most:,} of the data set; "
            f"set {key} to a folder with these only, or use dataset: folder"
        )
    photographs = [_photograph(root, path, split) for path in found]
    return sorted(photographs, key=lambda photograph: photograph.id)


def _check_names(found: Iterable[Path], names: Numbered, folder: Path, key: str) -> None:
    """Raise DataError for a file name outside the data set, or for two files of one number (0.jpg and 00000.jpg)."""
    by_number: dict[int | None, list[Path]] = {}
    for path in sorted(found):
        by_number.setdefault(names.number(path), []).append(path)
    strays = [path.relative_to(folder).as_posix() for path in by_number.pop(None, [])]
    if strays:
        raise DataError(
            f"{key}: '{folder}' holds {counted(len(strays), 'picture')} not of the data set, whose photographs are "
            f"called {names.example}; move them elsewhere, set {key} to a folder with the photographs only, or use "
            f"dataset: folder:{_listed(strays)}"
        )
    several = [paths for paths in by_number.values() if len(paths) > 1]
    if several:
        same = [" and ".join(path.relative_to(folder).as_posix() for path in paths) for paths in several]
        raise DataError(
            f"{key}: '{folder}' holds {counted(len(same), 'photograph')} of the data set more than once, by their "
            f"numbers; move all but one of each elsewhere, or set {key} to a folder with each once:{_listed(same)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f"\n  and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return "".join(f"\n  {printable(name)}" for name in names[:SHOWN]) + more


def subset(photographs: Sequence[Photograph], count: int | None, seed: int, key: str) -> list[Photograph]:
    """Draw `count` photographs (None: all) by `seed` and file name, independent of the arrangement in folders.

    Raises:
        DataError: there are fewer than `count`.
    """
    if count is None:
        return list(photographs)
    if count > len(photographs):
        found = counted(len(photographs), "photograph")
        raise DataError(f"{key} = {count:,}, but only {found} can be found; lower it or use null")
    by_name: dict[str, list[Photograph]] = {}
    for photograph in photographs:
        by_name.setdefault(photograph.path.name, []).append(photograph)
    order = [photograph for name in seeded_order(by_name, seed) for photograph in by_name[name]]
    return sorted(order[:count], key=lambda photograph: photograph.id)


def _photograph(root: Path, path: Path, split: Split | None) -> Photograph:
    name = printable(path.relative_to(root).as_posix())
    return Photograph(id=name, path=path, file=name, split=split, scene=name)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, including linked folders; each folder is visited once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_not_listed):
        status = os.stat(place)
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        yield from (Path(place, name) for name in files if name[0] != ".")


def _not_listed(error: OSError) -> NoReturn:
    raise DataError(
        f"'{error.filename}' cannot be listed ({error.strerror}), so its photographs would be missing; make it "
        "readable or move it elsewhere"
    ) from None


def _is_candidate(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:  # decoding reports it again, with its name
        return True
    return start.startswith(_SIGNATURES) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")
