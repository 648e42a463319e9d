"""`celeba_hq`: 30,000 faces of 1024×1024 (Karras et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.data.preparation.dataset import DATASETS, Dataset, Photograph
from pipeline.data.preparation.listing import Numbered, SubsetOptions, photographs_in, root_folder, subset
from pipeline.stores.prepared import Split

TREE = """\
  {root}/0.jpg … 29999.jpg          (CelebAMask-HQ's folder CelebA-HQ-img)
or
  {root}/00000.jpg … 29999.jpg      (or .png)
get CelebAMask-HQ as https://github.com/switchablenorms/CelebAMask-HQ says and let root be its folder CelebA-HQ-img"""
NAMES = Numbered(r"(\d{1,5})", 0, 29_999, "0.jpg … 29999.jpg (or .png)")


@DATASETS.register("celeba_hq")
class CelebaHq(Dataset):
    """All 30,000 or a seeded subset, in one folder, split by fractions."""

    class Options(SubsetOptions):
        pass

    name = "celeba_hq"
    licence = "non-commercial research only (CelebA's terms); these are pictures of real people"
    expected = 30_000
    options: Options

    def photographs(self) -> Sequence[Photograph]:
        root = root_folder(self.options.root, "datasets.celeba_hq.root", TREE)
        found = photographs_in(root, root, "datasets.celeba_hq.root", most=self.expected, names=NAMES)
        return subset(found, self.options.images, self.seed, "datasets.celeba_hq.images")

    def fractions(self) -> Mapping[Split, float]:
        return {"validation": self.options.validation_fraction, "test": self.options.test_fraction}
