"""`imagenet_val`: the 50,000 validation photographs of ILSVRC 2012 (Russakovsky et al., IJCV 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.data.preparation.dataset import DATASETS, Dataset, Photograph
from pipeline.data.preparation.listing import Numbered, SubsetOptions, photographs_in, root_folder, subset
from pipeline.stores.prepared import Split

TREE = """\
  {root}/ILSVRC2012_val_00000001.JPEG … ILSVRC2012_val_00050000.JPEG
or, sorted into class folders,
  {root}/n01440764/ILSVRC2012_val_00000293.JPEG …
register at https://image-net.org/download, fetch ILSVRC2012_img_val.tar (6.3 GB) and run
  tar -xf ILSVRC2012_img_val.tar -C {root}
some are grayscale or CMYK: set prepare.non_rgb to convert, or prepare.on_bad_image to skip"""
NAMES = Numbered(r"ILSVRC2012_val_(\d{8})", 1, 50_000, "ILSVRC2012_val_00000001.JPEG … ILSVRC2012_val_00050000.JPEG")


@DATASETS.register("imagenet_val")
class ImagenetVal(Dataset):
    """All 50,000 or a seeded subset, flat or in class folders, split by fractions.

    Some are grayscale or CMYK: set prepare.non_rgb to convert, as published work does.
    """

    class Options(SubsetOptions):
        pass

    name = "imagenet_val"
    licence = "non-commercial research and education only (ImageNet's terms of access)"
    expected = 50_000
    holds_non_rgb = True
    options: Options

    def photographs(self) -> Sequence[Photograph]:
        root = root_folder(self.options.root, "datasets.imagenet_val.root", TREE)
        found = photographs_in(root, root, "datasets.imagenet_val.root", most=self.expected, names=NAMES)
        return subset(found, self.options.images, self.seed, "datasets.imagenet_val.images")

    def fractions(self) -> Mapping[Split, float]:
        return {"validation": self.options.validation_fraction, "test": self.options.test_fraction}
