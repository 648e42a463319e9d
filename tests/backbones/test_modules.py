"""Layers that are modules of the network, by their paths: read as maps, from the same single pass, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from known_backbones import CONVNEXT, CPU, SMALL_VIT, SWIN, Executed, photograph
from shipped import backbone_params
from torch import Tensor, nn

from pipeline.backbones.backbone import check_backbone, feature_shapes, load_backbone
from pipeline.backbones.modules import read
from pipeline.core.errors import ParamsError
from pipeline.core.params import BackboneParams, load_params
from pipeline.core.sources import FeatureShape, ImageSize, Source

ROOT = Path(__file__).parents[2]
RESNET = backbone_params(library="torchvision", model="resnet18")
REGISTERS = backbone_params(library="timm", model="test_vit2")  # no class token, one register
LITE = backbone_params(library="timm", model="tf_efficientnet_lite0")
SIZE = ImageSize(64, 64)


def output_of(entry: BackboneParams, path: str, images: Tensor) -> Tensor:
    """What the module returns in the library's own model, with its own forward pass."""
    torch.manual_seed(0)
    options = {"dynamic_img_size": True} if "vit" in (entry.model or "") else {}
    if entry.library == "timm":
        model = timm.create_model(entry.model, **options).eval()
    else:
        model = torchvision.models.get_model(entry.model).eval()
    found: list[Tensor] = []
    model.get_submodule(path).register_forward_hook(lambda *call: found.append(call[2].clone()))
    with torch.inference_mode():
        model(images)
    return found[0]


def normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


MAPS = [
    (RESNET, "layer1.0.conv1", FeatureShape(64, 16, 16)),
    (RESNET, "conv1", FeatureShape(64, 32, 32)),
    (RESNET, "bn1", FeatureShape(64, 32, 32)),  # the activation behind it writes into it
    (RESNET, "avgpool", FeatureShape(512, 1, 1)),
    (backbone_params(library="torchvision", model="vgg11"), "features.7", FeatureShape(256, 16, 16)),
    (CONVNEXT, "stages.1.blocks.0.conv_dw", FeatureShape(32, 8, 8)),
    (LITE, "blocks.2.0.conv_dw", FeatureShape(144, 8, 8)),
    (LITE, "conv_head", FeatureShape(1280, 2, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "path", "shape"), MAPS, ids=str)
def test_a_map_is_what_the_module_returns(entry: BackboneParams, path: str, shape: FeatureShape) -> None:
    images = photograph(64, 64, count=2)
    with torch.inference_mode():
        found = load_backbone("mine", entry, CPU, [path])(images)[path]
    assert torch.equal(found, output_of(entry, path, normalised(images)))
    assert feature_shapes("mine", entry, [path], SIZE) == {path: shape} == {path: FeatureShape(*found.shape[1:])}


@pytest.mark.parametrize(
    ("entry", "path", "prefix"),
    [
        (SMALL_VIT, "blocks.3.attn", 1),
        (SMALL_VIT, "blocks.3.mlp.fc1", 1),
        (SMALL_VIT, "norm", 1),
        (REGISTERS, "blocks.2.attn", 1),
        (backbone_params(library="timm", model="pvt_v2_b0"), "stages.1.blocks.0.mlp.fc2", 0),
    ],
    ids=str,
)
def test_tokens_lie_on_their_grid_without_those_in_front(entry: BackboneParams, path: str, prefix: int) -> None:
    images = photograph(64, 128, count=2)
    with torch.inference_mode():
        found = load_backbone("mine", entry, CPU, [path])(images)[path]
    tokens = output_of(entry, path, normalised(images))[:, prefix:]
    height, width = found.shape[2:]
    assert width == 2 * height
    assert height * width == tokens.shape[1]
    assert torch.equal(found[:, :, 1, 2], tokens[:, width + 2])
    assert torch.equal(found.flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize(("entry", "path"), [(SMALL_VIT, "head_drop"), (CONVNEXT, "head.drop"), (LITE, "global_pool")])
def test_a_vector_is_a_map_of_one_pixel(entry: BackboneParams, path: str) -> None:
    images = photograph(64, 64, count=2)
    with torch.inference_mode():
        found = load_backbone("mine", entry, CPU, [path])(images)[path]
    assert found.shape[2:] == (1, 1)
    assert torch.equal(found[:, :, 0, 0], output_of(entry, path, normalised(images)))


@torch.inference_mode()
def test_modules_and_layers_come_from_one_pass_that_ends_after_the_last() -> None:
    layers = ["blocks.1.attn", "block0", "blocks.0.mlp"]
    backbone = load_backbone("mine", SMALL_VIT, CPU, layers)
    images = photograph(64, 64)
    backbone.shapes(SIZE)
    with Executed(backbone.network.model) as calls:
        found = backbone(images)
    assert list(found) == layers
    assert calls["blocks.1.attn"] == calls["blocks.0.mlp"] == calls["blocks.0"] == 1
    assert "blocks.2" not in calls
    alone = load_backbone("mine", SMALL_VIT, CPU, ["block0"])(images)["block0"]
    assert torch.equal(found["block0"], alone)


def test_gradients_reach_the_images_through_a_module() -> None:
    images = photograph(64, 64).requires_grad_()
    load_backbone("mine", RESNET, CPU, ["layer2.0.bn1"])(images)["layer2.0.bn1"].square().sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.5


REFUSED: list[tuple[BackboneParams, str, str]] = [
    (RESNET, "layer1.0.relu", "runs 2 times"),
    (SMALL_VIT, "blocks", "does not run"),
    (SMALL_VIT, "blocks.0.attn.qkvv", r"unknown \(did you mean 'blocks\.0\.attn\.qkv'\?\).*, or a module by its path"),
    (RESNET, "fc", "is unknown"),  # the head is not kept
    (SWIN, "layers.0.blocks.1.attn.qkv", r"returns \d+×49×288 for 2 images"),  # windows, not images
    (SMALL_VIT, "patch_embed", "returns 2×14×14×64 for"),  # channels last
    (CONVNEXT, "stages.0.blocks.0.mlp.fc1", "which is no map, grid of tokens or vector"),  # channels last
]


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "path", "why"), REFUSED, ids=str)
def test_what_is_no_layer_is_refused_by_name_before_anything_runs(entry: BackboneParams, path: str, why: str) -> None:
    size = ImageSize(224, 224)
    with pytest.raises(ParamsError, match=rf"backbones\.mine\.layers.*'{path}' .*{why}"):
        check_backbone("mine", entry.model_copy(update={"layers": (path,)}), size)
    with pytest.raises(ParamsError, match=why), torch.inference_mode():
        load_backbone("mine", entry, CPU, [path])(photograph())


class Tupled(nn.Module):
    num_prefix_tokens = 1


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ([], "does not run"),
        ([torch.zeros(2, 3)] * 3, "runs 3 times"),
        ([(torch.zeros(2, 3),)], "returns a tuple"),
        ([torch.zeros(2, 3, dtype=torch.int64)], "returns 2×3"),
        ([torch.zeros(1, 3, 8, 8)], "returns 1×3×8×8 for 2 images"),
        ([torch.zeros(2, 16, 3)], "returns 2×16×3"),  # a token of 17 is missing
        ([torch.zeros(2)], "returns 2 "),
    ],
)
def test_what_a_run_returns_is_checked_again(calls: list[Any], why: str) -> None:
    with pytest.raises(ParamsError, match=rf"backbones\.mine\.layers: the module 'path' {why}"):
        read("mine", "path", calls, torch.zeros(2, 3, 64, 64), Tupled())


def test_params_and_sources_take_paths() -> None:
    params = load_params(
        ROOT / "params.yaml",
        ["backbones.vit_small.layers=[blocks.3.attn]", "backbone=vit_small", "layer=blocks.3.attn"],
    )
    (source,) = params.sources
    assert source == Source.parse("vit_small.blocks.3.attn") == Source("vit_small", "blocks.3.attn")
