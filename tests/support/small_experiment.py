"""A whole small experiment through the real library: photographs, stores, a fitted decoder. Built once a test run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from shared import once
from skimage import data

from pipeline.backbones.backbone import load_backbone
from pipeline.core.params import NONE, Params, load_params
from pipeline.core.paths import Paths
from pipeline.core.sources import Inputs
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
    def prior(self) -> Path:
        return self.root / "data/prior"

    @property
    def features(self) -> Path:
        """One folder for the sources, with their networks' settings: an experiment never finds another's features."""
        networks = {source.backbone: self.params.backbone_params(source.backbone) for source in self.params.sources}
        return self.root / _key("features", self.params.store, *networks.items())

    @property
    def made(self) -> Path:
        return self.root / _key(self.params.decoder, self.params)

    @property
    def first_stage(self) -> Path:
        return self.made / "first_stage"

    @property
    def models(self) -> Path:
        return self.made / "models"

    def paths(self, **elsewhere: Path) -> Paths:
        """Of this experiment, but for those given."""
        own = {"first_stage": self.first_stage, "models": self.models, "metrics": self.made}
        return Paths.below(self.root, **{"features": self.features, **own, **elsewhere})

    def data(self) -> PreparedData:
        return PreparedData.open(self.root / "data/prepared")


def _key(name: str, *facts: object) -> str:
    return f"{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def photographs() -> Path:
    """The folder of all experiments, with real photographs, each another piece of scikit-image's."""
    return once("experiments", _photographs)


def _photographs(root: Path) -> None:
    (root / "photographs").mkdir(parents=True)
    sources = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    for number in range(PHOTOGRAPHS):
        pixels = sources[number % len(sources)]
        top, left = 40 * (number // len(sources)), 60 * (number // len(sources))
        piece = Image.fromarray(pixels[top : top + 140, left : left + 140])
        piece.save(root / "photographs" / f"photograph_{number:02}.png")


def small_settings(root: Path) -> tuple[str, ...]:
    """What every experiment on `photographs()` changes in params.yaml."""
    return (
        "dataset=folder",
        "backbone=vgg16",
        "layer=block1",
        f"datasets.folder.root={root / 'photographs'}",
        "datasets.folder.test_fraction=0.35",
        "prepare.size=72",
        "prepare.crop=64",
        "protocols.fast.epochs=2",
        "backbones.vgg16.layers=[block1]",
        "evaluate.bootstrap=100",
        "perceptual.metric.backbone=none",
        "evaluate.batch_size=3",
    )


@cache
def experiment(decoder: str = "transposed_conv", *overrides: str) -> Experiment:
    """`decoder` fitted for two epochs on vgg16.block1 of views of 64 pixels."""
    root = photographs()
    params = load_params(PARAMS, (*small_settings(root), f"decoder={decoder}", *overrides))
    made, work = Experiment(root, params), root / ".work"

    def prepared(folder: Path) -> None:
        prepare(params, folder / "prepared", work)
        fit_prior(made.data(), folder / "prior")

    def extracted(folder: Path) -> None:
        for source in params.sources:
            network = load_backbone(source.backbone, params.backbone_params(source.backbone), CPU)
            extract(network, made.data(), folder / source.backbone, params.store, params.extract, CPU, work)

    def trained(folder: Path) -> None:
        if params.two_stage.refine != NONE:
            refine_photographs(params, made.data(), made.paths(), CPU)
        train(params, made.data(), made.paths(), CPU)

    for folder, make in ((root / "data", prepared), (made.features, extracted), (made.made, trained)):
        once(folder.relative_to(root.parent).as_posix(), make)
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
    stores = tuple(open_store(made.features / source.backbone / source.layer) for source in inverter.sources)
    with CachedFeatures(made.data(), Inputs(stores), CPU) as cached:
        return validate(inverter, Loss(terms), cached.batches([made.data().rows("validation")]))
