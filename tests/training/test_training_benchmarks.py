"""`python -m benchmarks.train` and `python -m benchmarks.published`, on a few crops; what the encoder's side reads."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch
from forks import commands
from project import ROOT
from small_experiment import CPU, Experiment, experiment, photographs, small_settings
from toy_training import ToyFeed, toy_fitter

from benchmarks import published, train
from pipeline.backbones.backbone import load_backbone
from pipeline.core.sources import Inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import SplitFeed
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store

TINY = ["prepare.size=72", "prepare.crop=64", "prepare.views=1"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


def test_every_line_is_measured() -> None:
    tiny = ["--batches", "1", "--rounds", "1", "--device", "cpu", "--set", *small_settings(photographs())]
    lines = train.measure(train.parse(["--decoders", "transposed_conv", "--compare", "other_adam", *tiny]))
    of_decoder = "transposed_conv, batch 4, cpu: "
    assert [line.what for line in lines] == [
        f"{of_decoder}store / batch in memory",
        f"{of_decoder}store / encoder in the loop",
        f"{of_decoder}share of the time spent waiting",
        "the same step: other_adam / as train does it",
    ]
    assert all(0 <= line.ratio < 100 for line in lines)


@pytest.mark.parametrize(
    ("source", "left_out"),
    [("vgg16.block1", {"attention", "patch_transformer"}), ("resnet34.layer1", set()), ("vit_small.block1", set())],
)
def test_what_takes_an_hour_is_only_measured_when_it_is_named(source: str, left_out: set[str]) -> None:
    chosen = set(train.parse(["--source", source]).decoders)
    assert {"attention", "patch_transformer", "residual"} - chosen == left_out
    assert train.parse(["--source", source, "--decoders", "attention"]).decoders == ["attention"]


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_the_encoder_in_the_loop_reads_photographs_alone_in_the_steps_precision(
    made: Experiment, monkeypatch: pytest.MonkeyPatch, mixed: bool
) -> None:
    data, store = made.data(), open_store(made.features / "vgg16/block1")
    backbone = load_backbone("vgg16", made.params.backbone_params("vgg16"), CPU, ["block1"])
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=mixed)
    with monkeypatch.context() as patch, CachedFeatures(data, Inputs(()), CPU, "never") as crops:
        patch.setattr(FeatureStore, "read_into", lambda *_: pytest.fail("features are read"))
        feed = train.EncoderInTheLoop(SplitFeed(data, crops, 4, 0), 2, backbone, "block1", autocast)
        batches = list(feed.training(0))
    assert [len(batch.targets) for batch in batches] == [4, 4]
    for batch in batches:
        (features,) = batch.inputs.features
        assert features.dtype == torch.float32
        assert (features == features.bfloat16()).all() == mixed
        np.testing.assert_allclose(features.numpy(), store.read(batch.rows), rtol=0.05, atol=0.05)


def test_the_other_adam_is_another_and_steps() -> None:
    for name in ("adam", "muon"):
        fitter = toy_fitter(optimizer=name)
        train.other_adam(fitter)
        assert [group["fused"] for group in fitter.raw_optimizers[-1].param_groups] == [True]
        fitter.train_epoch(ToyFeed(), lambda amount: None)


@pytest.mark.slow
def test_the_published_training_runs_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"{commands()}/python")  # the stages are forks
    options = published.parse(["--images", "6", "--epochs", "2", "--device", "cpu", "--set", *TINY])
    said = published.measure(options)
    assert said.startswith("transposed_conv on vgg16.block1, protocol published, cpu (")
    assert "): 2 epochs over 6 images in " in said
