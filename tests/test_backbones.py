"""Every backbone against a truncated forward pass written here by hand from the library's own model."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from ruamel.yaml import YAML
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from pipeline.backbones import BACKBONES, Backbone, check_backbone, feature_shapes, load_backbone
from pipeline.errors import ParamsError, ShapeError, WeightsError
from pipeline.params import BackboneParams, load_params
from pipeline.sources import FeatureShape, ImageSize

CPU = torch.device("cpu")
SIZE = ImageSize(224, 224)
ROOT = Path(__file__).parents[1]

# DESIGN.md, the table of backbones
TABLE = {
    "vgg16": {
        "block1": FeatureShape(64, 112, 112),
        "block2": FeatureShape(128, 56, 56),
        "block3": FeatureShape(256, 28, 28),
        "block4": FeatureShape(512, 14, 14),
        "block5": FeatureShape(512, 7, 7),
    },
    "resnet34": {
        "layer1": FeatureShape(64, 56, 56),
        "layer2": FeatureShape(128, 28, 28),
        "layer3": FeatureShape(256, 14, 14),
        "layer4": FeatureShape(512, 7, 7),
    },
    "resnet50": {
        "layer1": FeatureShape(256, 56, 56),
        "layer2": FeatureShape(512, 28, 28),
        "layer3": FeatureShape(1024, 14, 14),
        "layer4": FeatureShape(2048, 7, 7),
    },
    "vit_small": {f"block{index}": FeatureShape(384, 14, 14) for index in range(12)},
    "vit_base": {f"block{index}": FeatureShape(768, 14, 14) for index in range(12)},
    "pvt_v2_b2": {
        "stage1": FeatureShape(64, 56, 56),
        "stage2": FeatureShape(128, 28, 28),
        "stage3": FeatureShape(320, 14, 14),
        "stage4": FeatureShape(512, 7, 7),
    },
}
LAYERS = [(name, layer) for name, layers in TABLE.items() for layer in layers]

# other timm models: an entry alone makes them backbones
SMALL_VIT = BackboneParams(library="timm", model="test_vit")
REGISTERS = BackboneParams(library="timm", model="test_vit2")  # no class token, one register
CONVNEXT = BackboneParams(library="timm", model="test_convnext")
SWIN = BackboneParams(library="timm", model="swin_tiny_patch4_window7_224")


@cache
def whole(name: str) -> Backbone:
    """The backbone with all its layers, random weights of seed 0."""
    return load_backbone(name, BackboneParams(), CPU, list(TABLE[name]))


@cache
def library_model(model: str, library: str = "timm") -> nn.Module:
    """The library's own model right after torch.manual_seed(0), in evaluation mode."""
    torch.manual_seed(0)
    build = timm.create_model if library == "timm" else torchvision.models.get_model
    return build(model).eval()


def photograph(height: int = 224, width: int = 224, count: int = 1) -> Tensor:
    """Something with edges and flat parts, (count, 3, height, width) in [0, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(5))
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


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
    return truncated_stages(name, layer, images)


@pytest.mark.parametrize("name", TABLE)
def test_shapes_equal_the_table(name: str) -> None:
    assert feature_shapes(name, BackboneParams(), list(TABLE[name]), SIZE) == TABLE[name]
    assert whole(name).shapes(SIZE) == TABLE[name]
    assert set(BACKBONES) == set(TABLE)


@cache
def features_of(name: str) -> dict[str, Tensor]:
    with torch.inference_mode():
        return whole(name)(photograph())


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
    entry = "backbones.tiny={library: timm, model: test_vit, layers: [block1, block0]}"
    params = load_params(ROOT / "params.yaml", [entry, "backbone=tiny", "layer=block1"])
    backbone = load_backbone("tiny", params.backbones["tiny"], CPU)
    assert {layer: tuple(f.shape) for layer, f in backbone(photograph()).items()} == {
        "block1": (1, 64, 14, 14),
        "block0": (1, 64, 14, 14),
    }


class Executed:
    """Counts how often each module of a network runs."""

    def __init__(self, network: nn.Module) -> None:
        self.calls: dict[str, int] = {}
        self.handles = [
            module.register_forward_hook(self._counter(name)) for name, module in network.named_modules() if name
        ]

    def _counter(self, name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1

        return count

    def __enter__(self) -> dict[str, int]:
        return self.calls

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


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
    deepest = {"vgg16": "features.30", "resnet34": "layer4", "resnet50": "layer4", "pvt_v2_b2": "stages.3"}
    assert deepest.get(name, "blocks.11") in everything
    assert deepest.get(name, "blocks.11") not in calls


def test_vgg_block1_runs_exactly_its_five_modules() -> None:
    backbone = load_backbone("vgg16", BackboneParams(), CPU, ["block1"])
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


@pytest.mark.parametrize("name", ["resnet34", "vit_small"])
def test_frozen_even_inside_a_module_that_trains(name: str) -> None:
    backbone = whole(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    parent = nn.Sequential(backbone).train()
    backbone.train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    images = photograph().requires_grad_()
    sum(features.square().mean() for features in parent(images).values()).backward()
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())
    after = backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad != 0).float().mean() > 0.5


def test_the_gradient_is_the_right_one() -> None:
    backbone = load_backbone("mine", SMALL_VIT, CPU, ["block0"]).double()
    images = photograph(32, 32).double().requires_grad_()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return backbone(x)["block0"].square().sum()

    (gradient,) = torch.autograd.grad(energy(images), images)
    step = 1e-6
    numeric = (energy(images + step * direction) - energy(images - step * direction)) / (2 * step)
    assert torch.isclose((gradient * direction).sum(), numeric, rtol=1e-5)


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


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vgg16", ImageSize(96, 64)),
        ("resnet50", ImageSize(70, 33)),
        ("pvt_v2_b2", ImageSize(96, 128)),
        ("vit_small", ImageSize(96, 160)),
    ],
)
@torch.inference_mode()
def test_other_image_sizes(name: str, size: ImageSize) -> None:
    found = whole(name)(photograph(size.height, size.width))
    shapes = {layer: FeatureShape(*features.shape[1:]) for layer, features in found.items()}
    assert shapes == feature_shapes(name, BackboneParams(), list(TABLE[name]), size)
    assert shapes != TABLE[name]


DINOV2 = BackboneParams(library="timm", model="vit_small_patch14_dinov2")  # built for 518×518


@pytest.mark.parametrize(
    ("entry", "layer", "size", "shape"),
    [
        (SWIN, "stage2", ImageSize(100, 64), FeatureShape(192, 13, 8)),
        (DINOV2, "block0", SIZE, FeatureShape(384, 16, 16)),
    ],
    ids=["swin", "dinov2"],
)
@torch.inference_mode()
def test_transformers_built_for_one_size_take_others(
    entry: BackboneParams, layer: str, size: ImageSize, shape: FeatureShape
) -> None:
    assert feature_shapes("mine", entry, [layer], size) == {layer: shape}
    found = load_backbone("mine", entry, CPU, [layer])(photograph(size.height, size.width))[layer]
    assert FeatureShape(*found.shape[1:]) == shape


def test_a_vit_at_another_size_resamples_its_positions_and_keeps_its_weights() -> None:
    backbone = load_backbone("mine", SMALL_VIT, CPU, ["block0"])
    before = backbone.weights.sha256
    assert backbone.shapes(ImageSize(96, 64))["block0"] == FeatureShape(64, 6, 4)
    assert backbone(photograph(96, 64))["block0"].shape == (1, 64, 6, 4)
    assert load_backbone("mine", SMALL_VIT, CPU, ["block0"]).weights.sha256 == before


REFUSED = {
    ("vgg16", 16): "vgg16 cannot take images of 16×16 pixels (Given input size: (512x1x1). Calculated output size: "
    "(512x0x0). Output size is too small); change prepare.crop",
    ("vit_small", 100): "vit_small cannot take images of 100×100 pixels (Input height (100) should be divisible by "
    "patch size (16).); change prepare.crop",
}


@pytest.mark.parametrize(("name", "edge"), REFUSED)
def test_sizes_that_do_not_go_are_refused_before_anything_is_computed(name: str, edge: int) -> None:
    deepest = list(TABLE[name])[-1]
    with pytest.raises(ShapeError) as error:
        feature_shapes(name, BackboneParams(), [deepest], ImageSize(edge, edge))
    assert str(error.value) == REFUSED[name, edge]
    with pytest.raises(ShapeError) as error, Executed(whole(name).network.model) as calls:
        whole(name)(photograph(edge, edge))
    assert str(error.value) == REFUSED[name, edge]
    assert not calls


MISTAKES = {
    "params.yaml: backbones.vgg16.layers = 'blok1' is unknown (did you mean 'block1'?); choose one of: block1, block2, "
    "block3, block4, block5": ("vgg16", {"layers": ["blok1"]}),
    "params.yaml: backbones.vgg16.layers is empty; list some of: block1, block2, block3, block4, block5": ("vgg16", {}),
    "params.yaml: backbones.vgg16.layers names a layer twice: block1, block1": (
        "vgg16",
        {"layers": ["block1", "block1"]},
    ),
    "params.yaml: backbones.mine is not one of vgg16, resnet34, resnet50, vit_small, vit_base, pvt_v2_b2, so its entry "
    "must say which model it is; add library: timm and model: <a name from timm.list_models()>": ("mine", {}),
    "params.yaml: backbones.mine has no model; library and model go together": ("mine", {"library": "timm"}),
    "params.yaml: backbones.mine has no library; library and model go together": ("mine", {"model": "test_vit"}),
    "params.yaml: backbones.vgg16 is torchvision's vgg16 by definition, not timm's vgg16; give the entry another "
    "name": (
        "vgg16",
        {"library": "timm", "model": "vgg16"},
    ),
    "params.yaml: backbones.mine.model = 'test_vitt' is not a timm model (did you mean 'test_vit'?); "
    "timm.list_models() lists them": ("mine", {"library": "timm", "model": "test_vitt"}),
    "params.yaml: backbones.mine.model = 'test_vit.r160_in1k' holds a tag; write model: test_vit and tag: r160_in1k": (
        "mine",
        {"library": "timm", "model": "test_vit.r160_in1k"},
    ),
    "params.yaml: backbones.mine.layers = 'block6' is unknown (did you mean 'block5'?); choose one of: block0, block1, "
    "block2, block3, block4, block5": ("mine", {"library": "timm", "model": "test_vit", "layers": ["block6"]}),
    "params.yaml: backbones.mine has one of mean and std; give both or neither": (
        "mine",
        {"library": "timm", "model": "test_vit", "mean": [0.5, 0.5, 0.5]},
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_mistakes_get_their_sentence(sentence: str) -> None:
    name, values = MISTAKES[sentence]
    with pytest.raises(ParamsError) as error:
        load_backbone(name, BackboneParams.model_validate(values), CPU)
    assert str(error.value) == sentence


def test_torchvision_models_of_other_families_are_refused() -> None:
    entry = BackboneParams(library="torchvision", model="alexnet", layers=("block1",))
    with pytest.raises(
        ParamsError, match=r"'alexnet' is not one of torchvision's VGGs and ResNets \(resnet101, .*timm"
    ):
        load_backbone("mine", entry, CPU)


def test_a_timm_model_without_feature_maps_is_refused() -> None:
    entry = BackboneParams(library="timm", model="gemma4_vit_167m", layers=("block1",))
    with pytest.raises(ParamsError, match=r"'gemma4_vit_167m' gives no feature maps by timm's forward_intermediates"):
        load_backbone("mine", entry, CPU)


# --- random weights ----------------------------------------------------------------------------------------------

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
    feature_shapes("vgg16", BackboneParams(), ["block1"], SIZE)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["vgg16", "vit_small", "pvt_v2_b2"])
@torch.inference_mode()
def test_cuda_gives_the_features_of_the_cpu(name: str) -> None:
    layers = list(TABLE[name])
    found = load_backbone(name, BackboneParams(), torch.device("cuda"), layers)(photograph().cuda())
    for layer in layers:
        expected = features_of(name)[layer]
        assert (found[layer].cpu() - expected).norm() / expected.norm() < 2e-3


# --- docs/backbones.md -------------------------------------------------------------------------------------------

DOCUMENT = (ROOT / "docs" / "backbones.md").read_text()


def test_the_documented_table_is_the_right_one() -> None:
    rows = [line for line in DOCUMENT.splitlines() if re.match(r"\| `\w+` \| (torchvision|timm) `", line)]
    assert len(rows) == len(TABLE)
    for row in rows:
        name, library, model = re.findall(r"`(\w+)` \| (\w+) `(\w+)`", row)[0]
        assert (BACKBONES[name].library, BACKBONES[name].model) == (library, model)
        shapes = {layer: str(shape) for layer, shape in TABLE[name].items()}
        documented = dict(re.findall(r"`(\w+)` (\d+×\d+×\d+)", row))
        assert documented.items() <= shapes.items()
        assert "…" in row or documented == shapes


def test_the_documented_entries_and_program_work(monkeypatch: pytest.MonkeyPatch) -> None:
    entries: dict[str, dict] = {}
    for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL):
        entries |= YAML(typ="safe", pure=True).load(block)["backbones"]
    assert {"dinov2_small", "convnext_atto", "swin_tiny", "vgg19", "my_vit"} == set(entries)
    for name, values in entries.items():
        entry = BackboneParams.model_validate(values)
        assert set(feature_shapes(name, entry, entry.layers, SIZE)) == set(entry.layers)
        if entry.weights == "imagenet":
            check_backbone(name, entry, SIZE)
    monkeypatch.chdir(ROOT)
    found: dict[str, dict[str, Tensor]] = {}
    exec(re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0], found)
    assert {layer: tuple(f.shape) for layer, f in found["features"].items()} == {
        "block1": (2, 64, 112, 112),
        "block3": (2, 256, 28, 28),
    }


def test_an_entry_is_checked_without_reading_weights() -> None:
    check_backbone("vgg16", BackboneParams(weights="imagenet", layers=("block1",)), SIZE)
    with pytest.raises(ParamsError, match=r"backbones\.vgg16\.tag = 'V9' is unknown"):
        check_backbone("vgg16", BackboneParams(weights="imagenet", tag="V9", layers=("block1",)), SIZE)
    with pytest.raises(WeightsError, match=r"backbones\.vgg16\.weights = 'nowhere\.pth' is not a file"):
        check_backbone("vgg16", BackboneParams(weights="nowhere.pth", layers=("block1",)), SIZE)
    with pytest.raises(ShapeError, match=r"vit_small cannot take images of 90×90 pixels"):
        check_backbone("vit_small", BackboneParams(layers=("block1",)), ImageSize(90, 90))


def test_every_layer_of_the_table_can_be_chosen_in_params_yaml() -> None:
    backbones = load_params(ROOT / "params.yaml").backbones
    assert {name: backbones[name].layers for name in TABLE} == {name: tuple(layers) for name, layers in TABLE.items()}


def test_a_backbone_loaded_in_inference_mode_still_gives_gradients() -> None:
    with torch.inference_mode():
        backbone = load_backbone("mine", SMALL_VIT, CPU, ["block0"])
    images = photograph(32, 32).requires_grad_()
    backbone(images)["block0"].sum().backward()
    assert images.grad is not None
