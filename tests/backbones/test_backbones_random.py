"""Random weights: the same on every machine, by the seed alone, and told apart by what is recorded."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from known_backbones import CONVNEXT, CPU, SIZE, SMALL_VIT, whole
from shipped import backbone_params

from pipeline.backbones.backbone import feature_shapes, load_backbone
from pipeline.core.params import BackboneParams

# The normal distribution behind convolutional networks is the same in torch's AVX2 and AVX-512 code; its plain code
# differs in the last bits.
GOLDEN = {
    "vgg16": "489e9c11cd139fb020e7c45362fda3dfc076717f55f0a22e7f2d720cc30c4c4f",
    "resnet34": "60e4f1428d67586ade3d6eefa52f25bbba73ef9ad947f7b1252fc8437c6630a6",
    "resnet50": "b5f932c347f4de7c02df371a909d56d2e9b3ecca4db63420f1a28bf53068da0f",
}
# The truncated normal distribution of transformers goes through MKL's inverse error function, whose last bits depend
# on the generation of the processor.
DRAWN = {
    "vit_small": ("blocks.11.mlp.fc2.weight", (-0.0057804682, 0.013580389, 0.00077226287)),
    "pvt_v2_b2": ("stages.3.blocks.2.attn.q.weight", (0.0042183464, 0.011247095, -0.013736621)),
}


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="other last bits")
@pytest.mark.parametrize("name", GOLDEN)
def test_random_convolutions_are_the_same_on_every_machine(name: str) -> None:
    weights = whole(name).weights
    assert (weights.kind, weights.detail, weights.sha256) == ("random", "seed 0", GOLDEN[name])


@pytest.mark.parametrize("name", DRAWN)
def test_random_transformers_are_the_same_on_every_machine_but_for_last_bits(name: str) -> None:
    key, values = DRAWN[name]
    drawn = whole(name).network.model.state_dict()[key].flatten()[-3:]
    torch.testing.assert_close(drawn, torch.tensor(values), rtol=1e-5, atol=0)


@pytest.fixture
def generators() -> Iterator[None]:
    """Whatever the process's generators are at, building a backbone must leave them there."""
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr]
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.usefixtures("generators")
def test_random_weights_depend_on_the_seed_alone() -> None:
    def sha256(entry: BackboneParams, seed: int) -> str:
        seeded = entry.model_copy(update={"seed": seed})
        return load_backbone("mine", seeded, CPU, ["block0" if entry is SMALL_VIT else "stage1"]).weights.sha256

    first = sha256(SMALL_VIT, 0)
    other = sha256(CONVNEXT, 0)
    assert sha256(SMALL_VIT, 0) == first  # whatever was built in between
    assert sha256(CONVNEXT, 0) == other != first
    assert sha256(SMALL_VIT, 1) != first


@pytest.mark.usefixtures("generators")
def test_shapes_draw_no_random_numbers() -> None:
    feature_shapes("mine", SMALL_VIT, ["block0"], SIZE)
    feature_shapes("vgg16", backbone_params(), ["block1"], SIZE)


def test_the_recorded_hash_does_not_depend_on_the_layers() -> None:
    first, second = (load_backbone("mine", CONVNEXT, CPU, [layer]) for layer in ("stage1", "stage4"))
    assert first.weights == second.weights


def test_describe_tells_what_determines_the_features() -> None:
    assert whole("resnet34").describe() == {
        "name": "resnet34",
        "library": "torchvision",
        "model": "resnet34",
        "weights": {"kind": "random", "detail": "seed 0", "sha256": whole("resnet34").weights.sha256},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
