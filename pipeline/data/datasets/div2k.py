"""`div2k`: 800 + 100 photographs of about 2040×1356 (Agustsson & Timofte, CVPR workshops 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from pipeline.core.section import Fraction, Section
from pipeline.data.preparation.dataset import DATASETS, Dataset, Photograph
from pipeline.data.preparation.listing import Numbered, photographs_in, root_folder
from pipeline.stores.prepared import Split

TRAIN, TEST = "DIV2K_train_HR", "DIV2K_valid_HR"
TRAIN_NAMES = Numbered(r"(\d{4})", 1, 800, "0001.png … 0800.png")
TEST_NAMES = Numbered(r"(\d{4})", 801, 900, "0801.png … 0900.png")
TREE = """\
  {root}/DIV2K_train_HR/0001.png … 0800.png
  {root}/DIV2K_valid_HR/0801.png … 0900.png
fetch DIV2K_train_HR.zip and DIV2K_valid_HR.zip from https://data.vision.ee.ethz.ch/cvl/DIV2K/ and unpack them there"""


@DATASETS.register("div2k")
class Div2k(Dataset):
    """The 800 training photographs are drawn into 640/160; the 100 official validation photographs are the test."""

    class Options(Section):
        root: Annotated[str, Field(min_length=1)]
        validation_fraction: Fraction

    name = "div2k"
    licence = "academic research only; the photographs belong to their authors (DIV2K's terms)"
    expected = 900
    options: Options

    def photographs(self) -> Sequence[Photograph]:
        key = "datasets.div2k.root"
        root = root_folder(self.options.root, key, TREE, (TRAIN, TEST))
        train = photographs_in(root, root / TRAIN, key, most=800, names=TRAIN_NAMES)
        return train + photographs_in(root, root / TEST, key, "test", most=100, names=TEST_NAMES)

    def fractions(self) -> Mapping[Split, float]:
        return {"validation": self.options.validation_fraction}
