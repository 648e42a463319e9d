"""Views, the seeded crops of every image, and the two tables that define rows, images and splits."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core.params import PrepareParams
from pipeline.stores.prepared import IMAGE_COLUMNS, SPLITS, VIEW_COLUMNS

DUPLICATE = "duplicate"


class View(NamedTuple):
    """A crop of a stored image: its top left corner in pixels, and whether it is mirrored left to right."""

    top: int
    left: int
    flip: bool


@dataclass(frozen=True)
class ImageRow:
    """A stored image. `split` is DUPLICATE for the second copy of a photograph, which no view uses.

    `key` seeds its views: the photograph's content and the square cut from it, so that renaming changes nothing.
    """

    image: int
    id: str
    file: str
    sha256: str
    mode: str
    split: str
    photograph: str
    key: str


class ViewRow(NamedTuple):
    """A line of views.csv."""

    row: int
    image: int
    split: str
    top: int
    left: int
    flip: bool


def draw_views(key: str, count: int, room: int, seed: int) -> list[View]:
    """`count` different crops, uniform over corners in [0, room]² and both orientations.

    They depend on `seed` and `key` alone. SHA-256 draws them, because a library's random generator may change.
    """
    views: dict[View, None] = {}
    draw = 0
    while len(views) < count:
        digest = hashlib.sha256(f"{seed}/{key}/{draw}".encode()).digest()
        top, left = (int.from_bytes(digest[8 * i : 8 * i + 8]) % (room + 1) for i in range(2))
        views[View(top, left, bool(digest[16] & 1))] = None
        draw += 1
    return list(views)


def view_table(images: Sequence[ImageRow], rules: PrepareParams, seed: int) -> list[ViewRow]:
    """Every row: train, validation, test; then image; then view."""
    room = rules.size - rules.crop
    centre = [View(room // 2, room // 2, False)]
    table: list[ViewRow] = []
    for split in SPLITS:
        for image in images:
            if image.split == split:
                views = draw_views(image.key, rules.views, room, seed) if split == "train" else centre
                table += [ViewRow(len(table) + i, image.image, split, *view) for i, view in enumerate(views)]
    return table


def images_csv(images: Iterable[ImageRow]) -> bytes:
    """images.csv: UTF-8, one line an image."""
    return _csv(IMAGE_COLUMNS, ([getattr(image, column) for column in IMAGE_COLUMNS] for image in images))


def views_csv(table: Iterable[ViewRow]) -> bytes:
    """views.csv: UTF-8, one line a row; `flip` is 0 or 1."""
    return _csv(VIEW_COLUMNS, ((*view[:-1], int(view.flip)) for view in table))


def _csv(columns: Sequence[str], rows: Iterable[Sequence[int | str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
