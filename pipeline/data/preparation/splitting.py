"""The split of each photograph, fixed by the data set or drawn; equal content is in one split only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.data.preparation.dataset import Photograph
from pipeline.data.preparation.splits import assign_splits
from pipeline.data.preparation.views import DUPLICATE, ImageRow
from pipeline.stores.prepared import Split

# Of two copies, the one in the earlier of these splits is kept, so that test sets stay complete.
_KEEP: tuple[Split | None, ...] = ("test", "validation", "train", None)


@dataclass(frozen=True)
class Good:
    """A decoded photograph: `sha256` of its file, and `content` of its pixels, which is equal for copies."""

    photograph: Photograph
    sha256: str
    mode: str
    content: str


def image_table(
    good: Sequence[Good], fractions: Mapping[Split, float], seed: int
) -> tuple[list[ImageRow], list[dict[str, str]]]:
    """Every stored image with its split, and the list of copies that are left out.

    Files that decode to the same pixels are copies. Photographs without a fixed split are drawn by the SHA-256 of
    their file (of copies, the smallest), so that names and order do not matter. Photographs of one scene are drawn
    together, and the fractions count scenes.
    """
    kept = _kept(good)
    digests = _digests(good)
    keys = _draw_keys([item for item in kept.values() if item.photograph.split is None], digests)
    splits = assign_splits(keys.values(), fractions, seed)
    images: list[ImageRow] = []
    duplicates = []
    for item in good:
        original = kept[item.content]
        split = item.photograph.split or splits[keys[item.content]] if original is item else DUPLICATE
        if original is not item:
            duplicates.append({"file": item.photograph.file, "duplicate_of": original.photograph.file})
        images += _rows(item, split, len(images), digests[item.content])
    return images, duplicates


def split_counts(photographs: Sequence[Photograph], fractions: Mapping[Split, float], seed: int) -> Counter[str]:
    """Images in each split if all `photographs` are good and different; needs no decoding."""
    splits = assign_splits({_scene(photograph) for photograph in photographs if not photograph.split}, fractions, seed)
    counts: Counter[str] = Counter()
    for photograph in photographs:
        counts[photograph.split or splits[_scene(photograph)]] += len(photograph.image_ids)
    return counts


def _kept(good: Sequence[Good]) -> dict[str, Good]:
    """For each content, the one photograph that is used: test before validation before train, then by id."""
    order = sorted(good, key=lambda item: (_KEEP.index(item.photograph.split), item.photograph.id), reverse=True)
    return {item.content: item for item in order}


def _digests(good: Sequence[Good]) -> dict[str, str]:
    """For each content, the smallest SHA-256 of its files."""
    digests: dict[str, str] = {}
    for item in good:
        digests[item.content] = min(item.sha256, digests.get(item.content, item.sha256))
    return digests


def _draw_keys(drawn: Sequence[Good], digests: Mapping[str, str]) -> dict[str, str]:
    """For each content, the key by which it is drawn: the smallest digest of its scene."""
    scenes: dict[str, list[str]] = {}
    for item in drawn:
        scenes.setdefault(_scene(item.photograph), []).append(digests[item.content])
    return {item.content: min(scenes[_scene(item.photograph)]) for item in drawn}


def _scene(photograph: Photograph) -> str:
    return photograph.scene or photograph.id


def _rows(item: Good, split: str, first: int, digest: str) -> list[ImageRow]:
    photograph = item.photograph
    return [
        ImageRow(
            first + i,
            image_id,
            photograph.file,
            item.sha256,
            item.mode,
            split,
            _scene(item.photograph),
            key=digest + image_id.removeprefix(photograph.id),
        )
        for i, image_id in enumerate(photograph.image_ids)
    ]
