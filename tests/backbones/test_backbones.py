"""Every backbone against a truncated forward pass written here by hand from the library's own model."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from devices import needs_gpu
from known_backbones import CONVNEXT, CPU, SIZE, SMALL_VIT, SWIN, TABLE, Executed, photograph, whole
from shipped import backbone_params
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from pipeline.backbones.backbone import feature_shapes, load_backbone
from pipeline.backbones.table import BACKBONES
from pipeline.core.params import BackboneParams, load_params
from pipeline.core.sources import FeatureShape

ROOT = Path(__file__).parents[2]
LAYERS = [(name, layer) for name, layers in TABLE.items() for layer in layers]
REGISTERS = backbone_params(library="timm", model="test_vit2")  # no class token, one register


@cache
def library_model(model: str, library: str = "timm") -> nn.Module:
    """The library's own model right after torch.manual_seed(0), in evaluation mode."""
    torch.manual_seed(0)
    build = timm.create_model if library == "timm" else torchvision.models.get_model
    return build(model).eval()


def imagenet(images: Tensor) -> Tensor:
    return normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def truncated_vgg(layer: str, images: Tensor) -> Tensor:
    ends = {"block1": 5, "block2": 10, "block3": 17, "block4": 24, "block5": 31}  # just after each max-pool
    features = library_model("vgg16", "torchvision").features
    assert isinstance(features[ends[layer] - 1], nn.MaxPool2d)
    for index in range(ends[layer]):
        images = features[index](images)
    return images


def truncated_resnet(model: str, layer: str, images: Tensor) -> Tensor:
    net = library_model(model, "torchvision")
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4)[: int(layer[-1])]:
        x = stage(x)
    return x


def truncated_vit(model: str, layer: str, images: Tensor) -> Tensor:
    net = library_model(model)
    tokens = net.patch_embed.proj(images).flatten(2).transpose(1, 2)  # (B, N, C)
    extra = [token for token in (net.cls_token, net.reg_token) if token is not None]
    prefix = [token.expand(len(images), -1, -1) for token in extra]
    if net.no_embed_class:
        tokens = torch.cat([*prefix, tokens + net.pos_embed], 1)
    else:
        tokens = torch.cat([*prefix, tokens], 1) + net.pos_embed
    tokens = net.norm_pre(tokens)
    for block in list(net.blocks)[: int(layer.removeprefix("block")) + 1]:
        tokens = block(tokens)
    grid = int(tokens.shape[1] ** 0.5)
    spatial = tokens[:, -grid * grid :]  # class token and registers dropped
    return spatial.transpose(1, 2).reshape(len(images), -1, grid, grid)


def truncated_stages(model: str, layer: str, images: Tensor) -> Tensor:
    """PVT-v2 and ConvNeXt: a stem or patch embedding, then stages, channels first."""
    net = library_model(model)
    x = net.patch_embed(images) if model.startswith("pvt") else net.stem(images)
    for stage in list(net.stages)[: int(layer[-1])]:
        x = stage(x)
    return x


def truncated_efficientnet(model: str, layer: str, images: Tensor) -> Tensor:
    net = library_model(model)
    x = net.bn1(net.conv_stem(images))
    for stage in list(net.blocks)[: {"stage1": 1, "stage2": 2, "stage3": 3, "stage4": 5, "stage5": 7}[layer]]:
        x = stage(x)
    return x


def truncated_swin(model: str, layer: str, images: Tensor) -> Tensor:
    net = library_model(model)
    x = net.patch_embed(images)  # (B, H, W, C)
    for stage in list(net.layers)[: int(layer[-1])]:
        x = stage(x)
    return x.permute(0, 3, 1, 2)


def truncated(name: str, layer: str, images: Tensor) -> Tensor:
    if name == "vgg16":
        return truncated_vgg(layer, images)
    if name.startswith("resnet"):
        return truncated_resnet(name, layer, images)
    if name.startswith("vit"):
        return truncated_vit(f"{name}_patch16_224", layer, images)
    if name.startswith("efficientnet"):
        return truncated_efficientnet(f"tf_{name}", layer, images)
    return truncated_stages(name, layer, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_shapes_equal_the_table(name: str) -> None:
    assert feature_shapes(name, backbone_params(), list(TABLE[name]), SIZE) == TABLE[name]
    assert whole(name).shapes(SIZE) == TABLE[name]
    assert set(BACKBONES) == set(TABLE)


@cache
def features_of(name: str) -> dict[str, Tensor]:
    with torch.inference_mode():
        return whole(name)(photograph())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), LAYERS, ids=lambda part: str(part))
@torch.inference_mode()
def test_each_layer_is_bit_equal_to_a_truncated_forward(name: str, layer: str) -> None:
    # all layers came from one pass, so this also shows that no later module overwrote an earlier output in place
    found = features_of(name)[layer]
    assert found.dtype == torch.float32
    assert FeatureShape(*found.shape[1:]) == TABLE[name][layer]
    assert torch.equal(found, truncated(name, layer, imagenet(photograph())))


def test_imagenet_normalisation_exists_in_one_file() -> None:
    numbers = re.compile(
        r"0?\.485|0?\.456|0?\.406|0?\.229|0?\.224|0?\.225|IMAGENET_DEFAULT|IMAGENET_INCEPTION|OPENAI_CLIP"
    )
    files = [path for folder in ("pipeline", "stages", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if numbers.search(path.read_text())}
    assert found == {"pipeline/backbones/normalization.py"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "layer", "reference"),
    [
        (SMALL_VIT, "block3", truncated_vit),
        (REGISTERS, "block7", truncated_vit),
        (CONVNEXT, "stage2", truncated_stages),
        (SWIN, "stage1", truncated_swin),
        (SWIN, "stage4", truncated_swin),
    ],
    ids=lambda value: value.model if isinstance(value, BackboneParams) else None,
)
@torch.inference_mode()
def test_any_timm_model_by_an_entry_alone(entry: BackboneParams, layer: str, reference: Callable[..., Tensor]) -> None:
    size = 224 if entry is SWIN else 160  # what these models are built for
    images = photograph(size, size)
    found = load_backbone("mine", entry, CPU, [layer])(images)[layer]
    assert torch.equal(found, reference(entry.model, layer, imagenet(images)))


def test_an_entry_of_params_yaml_is_enough() -> None:
    entry = "backbones.tiny={library: timm, model: test_vit, weights: random, seed: 0, layers: [block1, block0]}"
    params = load_params(ROOT / "params.yaml", [entry, "backbone=tiny", "layer=block1"])
    backbone = load_backbone("tiny", params.backbone_params("tiny"), CPU)
    assert {layer: tuple(f.shape) for layer, f in backbone(photograph()).items()} == {
        "block1": (1, 64, 14, 14),
        "block0": (1, 64, 14, 14),
    }


@pytest.mark.parametrize("name", TABLE)
@torch.inference_mode()
def test_one_pass_gives_all_layers(name: str) -> None:
    with Executed(whole(name).network.model) as calls:
        whole(name)(photograph())
    weighted = {key.rpartition(".")[0] for key in whole(name).network.model.state_dict()}
    assert {module: count for module, count in calls.items() if module in weighted and count != 1} == {}
    assert len(weighted & set(calls)) > 0.9 * len(weighted)


@pytest.mark.parametrize("name", TABLE)
@torch.inference_mode()
def test_a_shallow_request_runs_less_of_the_network(name: str) -> None:
    backbone = whole(name)
    with Executed(backbone.network.model) as everything:
        backbone(photograph())
    with Executed(backbone.network.model) as calls:
        backbone.network(imagenet(photograph()), [0])
    assert sum(calls.values()) < 0.5 * sum(everything.values())
    family = name.partition("_")[0]
    deepest = {"vgg16": "features.30", "vit": "blocks.11", "pvt": "stages.3", "efficientnet": "blocks.6"}
    assert deepest.get(family, "layer4") in everything
    assert deepest.get(family, "layer4") not in calls


def test_vgg_block1_runs_exactly_its_five_modules() -> None:
    backbone = load_backbone("vgg16", backbone_params(), CPU, ["block1"])
    with Executed(backbone.network.model) as calls:
        backbone(photograph())
    assert calls == {f"features.{index}": 1 for index in range(5)}


@pytest.mark.parametrize("name", ["vgg16", "resnet34"])
@torch.inference_mode()
def test_a_layer_alone_equals_that_layer_among_others(name: str) -> None:
    for depth, layer in enumerate(TABLE[name]):
        (alone,) = whole(name).network(whole(name).normalize(photograph()), [depth])
        assert torch.equal(alone, features_of(name)[layer])


def test_layers_come_in_the_order_asked_for() -> None:
    backbone = load_backbone("mine", CONVNEXT, CPU, ["stage3", "stage1"])
    assert backbone.layers == ("stage3", "stage1")
    assert list(backbone(photograph(64, 64))) == ["stage3", "stage1"]
    assert list(backbone.shapes(SIZE)) == ["stage3", "stage1"]


def test_the_mean_image_becomes_zero() -> None:
    backbone = whole("resnet34")
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert torch.equal(backbone.normalize(mean), torch.zeros(1, 3, 32, 32))
    assert torch.equal(backbone.normalize(photograph()), imagenet(photograph()))


@pytest.mark.parametrize("entry", [SMALL_VIT, CONVNEXT], ids=["vit", "convnext"])
@torch.inference_mode()
def test_autocast_and_channels_last_give_the_same_features(entry: BackboneParams) -> None:
    layer = "block2" if entry is SMALL_VIT else "stage3"
    backbone, images = load_backbone("mine", entry, CPU, [layer]), photograph(count=2)
    plain = backbone(images)[layer]
    last = backbone.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))[layer]
    assert last.shape == plain.shape
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = backbone(images)[layer].float()
    assert (low - plain).norm() / plain.norm() < 0.02


@needs_gpu
@pytest.mark.parametrize("name", ["vgg16", "vit_small", "pvt_v2_b2"])
@torch.inference_mode()
def test_cuda_gives_the_features_of_the_cpu(name: str) -> None:
    layers = list(TABLE[name])
    found = load_backbone(name, backbone_params(), torch.device("cuda"), layers)(photograph().cuda())
    for layer in layers:
        expected = features_of(name)[layer]
        assert (found[layer].cpu() - expected).norm() / expected.norm() < 2e-3
