"""The contract of a data set: a list of photographs, with or without a fixed split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.core.registry import Registry
from pipeline.core.section import Section
from pipeline.stores.prepared import Split


@dataclass(frozen=True)
class Box:
    """A square of a photograph, in pixels after EXIF orientation is applied."""

    top: int
    left: int
    edge: int


@dataclass(frozen=True)
class Photograph:
    """One file and the images that are cut from it.

    Attributes:
        id: unique and stable: the file's name relative to the root, with `/`.
        path: the file's path.
        file: the file's name in manifests and tables; never an absolute path.
        split: fixed by the data set, or None if the data set's fractions decide.
        scene: equal for photographs of one scene (a stereo pair), which get one split; otherwise the id.
        boxes: squares to cut, each one image; if empty, the whole photograph is the image.
    """

    id: str
    path: Path
    file: str
    split: Split | None
    scene: str
    boxes: tuple[Box, ...] = ()

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One readable id for each image cut from the photograph."""
        if not self.boxes:
            return (self.id,)
        return tuple(f"{self.id}@{box.top},{box.left},{box.edge}" for box in self.boxes)


class Dataset(ABC):
    """A source of photographs. `Options` is the data set's section in params.yaml."""

    class Options(Section):
        """No options."""

    name: ClassVar[str]
    licence: ClassVar[str]  # terms for publishing pictures made from it
    expected: ClassVar[int | None] = None  # photographs in the complete data set
    holds_non_rgb: ClassVar[bool] = False  # some of the complete data set's photographs are not 8-bit RGB

    def __init__(self, options: Section, seed: int) -> None:
        self.options = options
        self.seed = seed

    @abstractmethod
    def photographs(self) -> Sequence[Photograph]:
        """Every photograph, sorted by id. Reads names and, where needed, first bytes; decodes no image.

        Raises:
            DataError: the root or one of its folders is missing or empty; the message shows the expected tree.
        """

    def fractions(self) -> Mapping[Split, float]:
        """Fractions of the photographs without a fixed split that go to validation and to test."""
        return {}


DATASETS: Registry[type[Dataset]] = Registry("dataset", "pipeline.data.datasets")
