"""A whole small experiment through the real library: photographs, stores, a fitted decoder. Built once a process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from skimage import data

from pipeline.backbones.backbone import load_backbone
from pipeline.core.params import NONE, Params, load_params
from pipeline.core.paths import Paths
from pipeline.data.preparation.run import prepare
from pipeline.experiments.first_stage import refine_photographs
from pipeline.extraction.run import extract
from pipeline.loading.loader import CachedFeatures
from pipeline.models.common.inverter import load_inverter
from pipeline.models.common.prior import fit_prior
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData
from pipeline.training.fitter import validate
from pipeline.training.losses import Loss
from pipeline.training.run import train

PARAMS = Path(__file__).parents[2] / "params.yaml"
CPU = torch.device("cpu")
PHOTOGRAPHS = 20
MSE = {"mse": 1.0}
VIT = ("backbone=vit_small", "layer=block0", "backbones.vit_small.layers=[block0]")


@dataclass(frozen=True)
class Experiment:
    """Paths and params of one experiment; `data`, `features` and `models` are as the stages write them."""

    root: Path
    params: Params

    @property
    def features(self) -> Path:
        return self.root / f"features-{self.params.store.dtype}"

    @property
    def first_stage(self) -> Path:
        return self.root / "first_stage" / self._name

    @property
    def prior(self) -> Path:
        return self.root / "data/prior"

    @property
    def models(self) -> Path:
        return self.root / "models" / self._name

    @property
    def _name(self) -> str:
        sources = "+".join(map(str, self.params.sources))
        return "-".join([sources, self.params.store.dtype, self.params.two_stage.refine, self.params.decoder])

    def paths(self, **elsewhere: Path) -> Paths:
        """Of this experiment, but for those given."""
        usual = {"features": self.features, "first_stage": self.first_stage, "models": self.models}
        curves = {"metrics": self.root / "curves" / self._name}
        return Paths.below(self.root, **{**usual, **curves, **elsewhere})

    def data(self) -> PreparedData:
        return PreparedData.open(self.root / "data/prepared")


@cache
def photographs() -> Path:
    """A folder with real photographs, each another piece of scikit-image's."""
    root = Path(tempfile.mkdtemp(prefix="small_experiment_"))
    (root / "photographs").mkdir()
    sources = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    for number in range(PHOTOGRAPHS):
        pixels = sources[number % len(sources)]
        top, left = 40 * (number // len(sources)), 60 * (number // len(sources))
        piece = Image.fromarray(pixels[top : top + 140, left : left + 140])
        piece.save(root / "photographs" / f"photograph_{number:02}.png")
    return root


def small_settings(root: Path) -> tuple[str, ...]:
    """What every experiment on `photographs()` changes in params.yaml."""
    return (
        "dataset=folder",
        f"datasets.folder.root={root / 'photographs'}",
        "datasets.folder.test_fraction=0.35",
        "prepare.size=72",
        "prepare.crop=64",
        "protocols.fast.epochs=2",
        "backbones.vgg16.layers=[block1]",
        "evaluate.bootstrap=100",
        "evaluate.batch_size=3",
    )


@cache
def experiment(decoder: str = "transposed_conv", *overrides: str) -> Experiment:
    """`decoder` fitted for two epochs on vgg16.block1 of views of 64 pixels."""
    root = photographs()
    params = load_params(PARAMS, (*small_settings(root), f"decoder={decoder}", *overrides))
    made = Experiment(root, params)
    if not made.prior.exists():
        prepare(params, root / "data/prepared", root / ".work")
        fit_prior(made.data(), made.prior)
    for source in params.sources:
        network = load_backbone(source.backbone, params.backbone_params(source.backbone), CPU)
        output = made.features / source.backbone
        extract(network, made.data(), output, params.store, params.extract, CPU, root / ".work")
    if params.two_stage.refine != NONE:
        refine_photographs(params, made.data(), made.paths(), CPU)
    train(params, made.data(), made.paths(), CPU)
    return made


def retrain(made: Experiment, folder: Path, *overrides: str, device: str = "cpu") -> pd.DataFrame:
    """Train on the features of `made` with `overrides`, into models and work of `folder`; the curves."""
    params = load_params(PARAMS, (*small_settings(made.root), *overrides))
    paths = made.paths(models=folder / "models", metrics=folder / "metrics", work=folder / "work")
    train(params, made.data(), paths, torch.device(device))
    return pd.read_csv(paths.curves)


def validation_scores(made: Experiment, models: Path, terms: Mapping[str, float] = MSE) -> dict[str, float]:
    """Loss and PSNR of a saved model on the validation rows, in float32."""
    inverter = load_inverter(models, CPU)
    stores = [open_store(made.features / source.backbone / source.layer) for source in inverter.sources]
    with CachedFeatures(made.data(), stores, CPU) as cached:
        return validate(inverter, Loss(terms), cached.batches([made.data().rows("validation")]))
