"""Published weights: from the libraries' caches without network, and every way in which they cannot be had."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from messages import says
from shipped import backbone_params
from timm.models import load_state_dict_from_hf
from weight_caches import (
    COMMIT,
    HALF,
    RESNET18,
    VIT,
    VIT_REPOSITORY,
    entry,
    fresh,
    place_hub,
    place_torch,
    same_numbers,
    use_empty_caches,
)

from pipeline.backbones.backbone import load_backbone, published_weights
from pipeline.backbones.caches import HubFile, TorchHubFile, hub_offline
from pipeline.core.errors import ParamsError, WeightsError

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_empty_caches(tmp_path / "caches", monkeypatch)


# --- published weights, from the caches --------------------------------------------------------------------------


def test_torchvision_weights_come_from_its_cache(caches: Path) -> None:
    state = fresh("resnet18").state_dict()
    place_torch(caches, "resnet18-f37072fd.pth", state)
    backbone = load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    assert same_numbers(backbone, state)
    # the file is not the published one, as its name can tell, and the record says so
    assert (backbone.weights.kind, backbone.weights.detail) == (
        "imagenet",
        "ResNet18_Weights.IMAGENET1K_V1 (altered file)",
    )
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_vgg16_imagenet_weights_give_their_features(caches: Path) -> None:
    features = fresh("vgg16", num_classes=1).features
    place_torch(
        caches, "vgg16-397923af.pth", {f"features.{key}": value for key, value in features.state_dict().items()}
    )
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone = load_backbone("vgg16", backbone_params(weights="imagenet"), CPU, ["block2"])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        assert torch.equal(backbone(images)["block2"], features[:10]((images - mean) / std))


def test_a_tag_chooses_other_weights_and_is_recorded(caches: Path) -> None:
    state = fresh("resnet50").state_dict()
    place_torch(caches, "resnet50-11ad3fa6.pth", state)
    backbone = load_backbone("resnet50", backbone_params(weights="imagenet", tag="IMAGENET1K_V2"), CPU, ["layer1"])
    assert same_numbers(backbone, state)
    assert backbone.weights.detail.startswith("ResNet50_Weights.IMAGENET1K_V2")


def test_a_file_whose_name_holds_its_hash_is_the_published_one(caches: Path) -> None:
    path = place_torch(caches, "anything.pth", {"x": torch.zeros(1)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(path.with_name(f"net-{digest[:8]}.pth"))
    assert TorchHubFile(f"https://example.org/net-{digest[:8]}.pth").as_published()
    path.with_name("net-00000000.pth").write_bytes(b"other")
    assert not TorchHubFile("https://example.org/net-00000000.pth").as_published()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_timm_weights_come_from_the_hub_cache_with_their_own_normalisation(caches: Path, file: str) -> None:
    state = fresh("test_vit", "timm").state_dict()
    place_hub(caches, VIT_REPOSITORY, state, file)
    backbone = load_backbone("mine", entry(VIT, weights="imagenet"), CPU)
    assert same_numbers(backbone, state)
    assert (backbone.weights.kind, backbone.weights.detail) == ("imagenet", "test_vit.r160_in1k")
    assert (backbone.normalization.mean, backbone.normalization.std) == (HALF, HALF)
    assert backbone.describe()["mean"] == [0.5, 0.5, 0.5]
    assert torch.equal(backbone.normalize(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))


def test_weights_that_are_here_need_no_network(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy that refuses the hub: its library asks there for newer files, unless it is held offline."""

    def refusing_proxy(*_: object, **__: object) -> None:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("what the hub's library says to itself")
        raise HTTPError("403 Forbidden")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", refusing_proxy)
    state = fresh("test_vit", "timm").state_dict()
    place_hub(caches, VIT_REPOSITORY, state)
    assert same_numbers(load_backbone("mine", entry(VIT, weights="imagenet"), CPU), state)
    assert not constants.HF_HUB_OFFLINE


def test_another_librarys_file_of_the_same_repository_is_not_the_weights(caches: Path) -> None:
    file = HubFile("timm/clip", "open_clip_pytorch_model.bin")
    path = place_hub(caches, "timm/clip", {"x": torch.zeros(1)}, "model.safetensors")
    assert not file.present()
    path.rename(path.with_name("open_clip_model.safetensors"))
    assert file.present()


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("pytorch_model.bin", "pytorch_model.bin"),
        ("pytorch_model.bin", "model.safetensors"),
        ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
        ("other.bin", "other.safetensors"),
        ("other.safetensors", "other.safetensors"),
        ("other.pth", "other.pth"),
        ("pytorch_model.bin", "pytorch_model.safetensors"),
        ("other.pth", "other.safetensors"),
    ],
)
def test_a_file_counts_as_present_exactly_where_timm_reads_it(
    caches: Path, asked: str, there: str, revision: str
) -> None:
    place_hub(caches, "timm/net", {"x": torch.ones(3)}, there)
    with hub_offline():
        try:
            read = torch.equal(load_state_dict_from_hf(f"timm/net{revision}", asked)["x"], torch.ones(3))
        except LocalEntryNotFoundError:
            read = False
    file = HubFile(f"timm/net{revision}", asked)
    assert file.present() == read
    assert [path.name for path in file.members(file.root) if path.name != "main"] == [there] * read
    noted = [path for path in file.members(file.root) if path.name == "main"]  # which commit that is
    assert len(noted) == (read and not revision)


def test_random_weights_are_normalised_as_imagenet_whatever_the_published_ones_need() -> None:
    assert load_backbone("mine", entry(VIT), CPU).normalization.mean == (0.485, 0.456, 0.406)


def test_loading_leaves_the_generator_alone(caches: Path) -> None:
    place_hub(caches, VIT_REPOSITORY, fresh("test_vit", "timm").state_dict())
    place_torch(caches, "resnet18-f37072fd.pth", fresh("resnet18").state_dict())
    before = torch.get_rng_state()
    load_backbone("mine", entry(VIT, weights="imagenet"), CPU)
    load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    assert torch.equal(torch.get_rng_state(), before)


DEFAULTS = {
    "vgg16": ("VGG16_Weights.IMAGENET1K_V1", "vgg16-397923af.pth", 0.485),
    "resnet34": ("ResNet34_Weights.IMAGENET1K_V1", "resnet34-b627a593.pth", 0.485),
    "resnet50": ("ResNet50_Weights.IMAGENET1K_V1", "resnet50-0676ba61.pth", 0.485),
    "vit_small": (
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "model.safetensors of timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        0.5,
    ),
    "vit_base": (
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "model.safetensors of timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        0.5,
    ),
    "pvt_v2_b2": ("pvt_v2_b2.in1k", "model.safetensors of timm/pvt_v2_b2.in1k", 0.485),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_weights_are_those_of_the_papers(name: str) -> None:
    published = published_weights(name, backbone_params())
    assert (published.label, published.file.name, published.normalization.mean[0]) == DEFAULTS[name]


@pytest.mark.slow
def test_the_libraries_own_variables_are_respected(caches: Path) -> None:
    place_hub(caches, VIT_REPOSITORY, fresh("test_vit", "timm").state_dict())
    place_torch(caches, "resnet18-f37072fd.pth", fresh("resnet18").state_dict())
    program = f"""
import torch
from pipeline.backbones.backbone import load_backbone
from pipeline.core.params import BackboneParams
for values in ({VIT!r}, {RESNET18!r}):
    entry = BackboneParams.model_validate(dict(values, weights="imagenet"))
    print(load_backbone("mine", entry, torch.device("cpu")).weights.sha256)
"""
    variables = {
        "TORCH_HOME": str(caches / "torch"),
        "HF_HOME": str(caches / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    found = subprocess.run([sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    here = [load_backbone("mine", entry(values, weights="imagenet"), CPU) for values in (VIT, RESNET18)]
    assert found.stdout.split() == [backbone.weights.sha256 for backbone in here]


# --- published weights that cannot be had ------------------------------------------------------------------------


def test_missing_torchvision_weights_get_one_sentence(caches: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone("vgg16", backbone_params(weights="imagenet"), CPU, ["block1"])
    says(
        error.value,
        "vgg16-397923af.pth",
        caches / "torch" / "hub" / "checkpoints",
        "no route to host",
        "`python -m stages weights vgg16 --to DIR`",
        "`python -m stages weights vgg16 --from DIR`",
    )


def test_missing_timm_weights_get_one_sentence(caches: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone("vit_small", backbone_params(weights="imagenet"), CPU, ["block1"])
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.startswith(
        "model.safetensors of timm/vit_small_patch16_224.augreg_in21k_ft_in1k, the weights of "
        "vit_small_patch16_224.augreg_in21k_ft_in1k, is not in "
        f"{caches / 'huggingface' / 'hub' / 'models--timm--vit_small_patch16_224.augreg_in21k_ft_in1k'} and cannot be "
        "downloaded (Cannot reach https://huggingface.co/"
    )
    assert sentence.endswith(
        "on a machine with network run `python -m stages weights vit_small --to DIR`, bring DIR here and run `python "
        "-m stages weights vit_small --from DIR`"
    )


def test_a_damaged_file_in_the_cache_is_named(caches: Path) -> None:
    path = place_torch(caches, "resnet18-f37072fd.pth", fresh("resnet18").state_dict())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    assert str(error.value).startswith(
        f"resnet18-f37072fd.pth in {path.parent} cannot be loaded as ResNet18_Weights.IMAGENET1K_V1 ("
    )
    assert str(error.value).endswith("); delete the file so that it is downloaded again")


def test_another_networks_file_under_the_right_name_is_refused(caches: Path) -> None:
    place_torch(caches, "resnet18-f37072fd.pth", fresh("resnet34").state_dict())
    with pytest.raises(
        WeightsError, match=r"^resnet18-f37072fd\.pth does not hold the weights of this network: 'layer1"
    ):
        load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    place_hub(caches, VIT_REPOSITORY, fresh("test_vit2", "timm").state_dict())
    with pytest.raises(
        WeightsError, match=r"cannot be loaded as test_vit\.r160_in1k \(.*; delete the file so that"
    ) as error:
        load_backbone("mine", entry(VIT, weights="imagenet"), CPU)
    assert "\n" not in str(error.value)


def test_an_unknown_tag_lists_the_legal_ones() -> None:
    with pytest.raises(ParamsError) as error:
        published_weights("resnet50", backbone_params(tag="V3"))
    says(error.value, "backbones.resnet50.tag = 'V3'", "choose one of: IMAGENET1K_V1, IMAGENET1K_V2")
    with pytest.raises(ParamsError, match=r"backbones\.mine\.tag = 'in1k' is unknown.*choose one of: r160_in1k"):
        published_weights("mine", entry(VIT, tag="in1k"))


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(WeightsError) as error:
        published_weights("mine", entry(VIT, model="test_vit4"))
    says(error.value, "test_vit4", "set backbones.mine.weights")
