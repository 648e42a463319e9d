"""Weights: from the libraries' caches without network, from files, and every way in which they cannot be had."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from pipeline.backbones import Backbone, load_backbone, published_weights
from pipeline.backbones.caches import TorchHubFile
from pipeline.errors import ParamsError, WeightsError
from pipeline.params import BackboneParams
from stages.__main__ import app

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
HALF = (0.5, 0.5, 0.5)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESNET18 = {"library": "torchvision", "model": "resnet18", "layers": ["layer1"]}
VIT = {"library": "timm", "model": "test_vit", "layers": ["block0"]}
VIT_REPOSITORY = "timm/test_vit.r160_in1k"
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch and of the hub, and no network: TORCH_HOME is read at each use, HF_HOME at import."""
    use_caches(tmp_path / "caches", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    return tmp_path / "caches"


def use_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "huggingface" / "hub"))


def no_network(*_: object) -> None:
    raise URLError("no route to host")


def fresh(model: str, library: str = "torchvision", **options: Any) -> nn.Module:
    """A model with numbers of its own, as the library makes it."""
    torch.manual_seed(1234)
    module = (
        timm.create_model(model, **options) if library == "timm" else torchvision.models.get_model(model, **options)
    )
    return module.eval()


def entry(values: Mapping[str, Any], **more: Any) -> BackboneParams:
    return BackboneParams.model_validate({**values, **more})


def place_torch(caches: Path, file: str, state: State) -> Path:
    """Where torch.hub looks: $TORCH_HOME/hub/checkpoints."""
    path = caches / "torch" / "hub" / "checkpoints" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def place_hub(caches: Path, repository: str, state: State, file: str = "model.safetensors") -> Path:
    """Where huggingface_hub looks: the commit that refs/main names, below snapshots."""
    folder = caches / "huggingface" / "hub" / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def same_numbers(backbone: Backbone, state: Mapping[str, Tensor]) -> bool:
    own = backbone.network.model.state_dict()
    return len(own) > 0 and all(torch.equal(own[key], state[key]) for key in own)


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
    backbone = load_backbone("vgg16", BackboneParams(weights="imagenet"), CPU, ["block2"])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        assert torch.equal(backbone(images)["block2"], features[:10]((images - mean) / std))


def test_a_tag_chooses_other_weights_and_is_recorded(caches: Path) -> None:
    state = fresh("resnet50").state_dict()
    place_torch(caches, "resnet50-11ad3fa6.pth", state)
    backbone = load_backbone("resnet50", BackboneParams(weights="imagenet", tag="IMAGENET1K_V2"), CPU, ["layer1"])
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
    published = published_weights(name, BackboneParams())
    assert (published.label, published.file.name, published.normalization.mean[0]) == DEFAULTS[name]


@pytest.mark.slow
def test_the_libraries_own_variables_are_respected(caches: Path) -> None:
    place_hub(caches, VIT_REPOSITORY, fresh("test_vit", "timm").state_dict())
    place_torch(caches, "resnet18-f37072fd.pth", fresh("resnet18").state_dict())
    program = f"""
import torch
from pipeline.backbones import load_backbone
from pipeline.params import BackboneParams
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
        load_backbone("vgg16", BackboneParams(weights="imagenet"), CPU, ["block1"])
    assert str(error.value) == (
        "vgg16-397923af.pth, the weights of VGG16_Weights.IMAGENET1K_V1, is not in "
        f"{caches / 'torch' / 'hub' / 'checkpoints'} and cannot be downloaded (<urlopen error no route to host>); on a "
        "machine with network run `python -m stages weights vgg16 --to DIR`, bring DIR here and run `python -m stages "
        "weights vgg16 --from DIR`"
    )


def test_missing_timm_weights_get_one_sentence(caches: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone("vit_small", BackboneParams(weights="imagenet"), CPU, ["block1"])
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
    assert str(error.value).endswith("); delete it so that it is fetched again")


def test_another_networks_file_under_the_right_name_is_refused(caches: Path) -> None:
    place_torch(caches, "resnet18-f37072fd.pth", fresh("resnet34").state_dict())
    with pytest.raises(
        WeightsError, match=r"^resnet18-f37072fd\.pth does not hold the weights of this network: 'layer1"
    ):
        load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    place_hub(caches, VIT_REPOSITORY, fresh("test_vit2", "timm").state_dict())
    with pytest.raises(WeightsError, match=r"cannot be loaded as test_vit\.r160_in1k \(.*; delete it so that") as error:
        load_backbone("mine", entry(VIT, weights="imagenet"), CPU)
    assert "\n" not in str(error.value)


def test_an_unknown_tag_lists_the_legal_ones() -> None:
    with pytest.raises(ParamsError) as error:
        published_weights("resnet50", BackboneParams(tag="V3"))
    assert str(error.value) == (
        "params.yaml: backbones.resnet50.tag = 'V3' is unknown; choose one of: IMAGENET1K_V1, IMAGENET1K_V2"
    )
    with pytest.raises(ParamsError, match=r"backbones\.mine\.tag = 'in1k' is unknown.*choose one of: r160_in1k"):
        published_weights("mine", entry(VIT, tag="in1k"))


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(WeightsError) as error:
        published_weights("mine", entry(VIT, model="test_vit4"))
    assert str(error.value) == (
        "timm publishes no weights test_vit4; set backbones.mine.weights to random or to the path of a state dict"
    )


# --- weights from a file -----------------------------------------------------------------------------------------


def save(path: Path, state: Any) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(("model", "library"), [("resnet18", "torchvision"), ("test_vit", "timm")])
def test_a_file_of_weights(tmp_path: Path, file: str, model: str, library: str) -> None:
    state = fresh(model, library).state_dict()
    values = RESNET18 if library == "torchvision" else VIT
    backbone = load_backbone("mine", entry(values, weights=save(tmp_path / file, state)), CPU)
    assert same_numbers(backbone, state)
    assert (backbone.weights.kind, backbone.weights.detail) == ("path", file)


def test_both_formats_are_the_same_weights(tmp_path: Path) -> None:
    state = fresh("test_vit", "timm").state_dict()
    files = [save(tmp_path / name, state) for name in ("net.pth", "net.safetensors")]
    first, second = (load_backbone("mine", entry(VIT, weights=file), CPU) for file in files)
    assert first.weights.sha256 == second.weights.sha256


def test_a_fine_tune_on_other_classes_has_the_same_trunk(tmp_path: Path) -> None:
    state = fresh("test_vit", "timm", num_classes=10).state_dict()
    assert same_numbers(load_backbone("mine", entry(VIT, weights=save(tmp_path / "tuned.pth", state)), CPU), state)
    trunk = {key: value for key, value in state.items() if not key.startswith("head.")}
    assert same_numbers(load_backbone("mine", entry(VIT, weights=save(tmp_path / "trunk.pth", trunk)), CPU), state)


def test_a_file_is_normalised_like_the_published_weights_unless_the_entry_says_otherwise(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pth", fresh("test_vit", "timm").state_dict())
    assert load_backbone("mine", entry(VIT, weights=file), CPU).normalization.mean == HALF
    said = entry(VIT, weights=file, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    normalization = load_backbone("mine", said, CPU).normalization
    assert (normalization.mean, normalization.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def broken(change: str) -> dict[str, Any]:
    state: dict[str, Any] = dict(fresh("test_vit", "timm").state_dict())
    match change:
        case "missing":
            del state["cls_token"]
        case "shape":
            state["norm.bias"] = torch.zeros(65)
        case "extra":
            state["blocks.6.norm1.weight"] = torch.zeros(64)
        case "nan":
            state["norm.weight"] = torch.full((64,), torch.nan)
        case "text":
            state["norm.weight"] = "ones"
        case "many":
            return {f"module.{key}": value for key, value in state.items()}
    return state


HINT = "; save the state dict of the library's own model, or change backbones.<name>.model"
PROBLEMS = {
    "missing": "'cls_token' is missing",
    "shape": "'norm.bias' is 65, not 64",
    "extra": "'blocks.6.norm1.weight' belongs to no part of it",
    "nan": "'norm.weight' holds values that are not finite",
    "text": "'norm.weight' is a str, not a tensor",
    "many": "'cls_token' is missing; 'pos_embed' is missing; 'patch_embed.proj.weight' is missing, and 155 more",
}


@pytest.mark.parametrize("change", PROBLEMS)
def test_every_key_and_shape_is_checked(tmp_path: Path, change: str) -> None:
    file = save(tmp_path / "net.pth", broken(change))
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights=file), CPU)
    assert str(error.value) == f"{file} does not hold the weights of this network: {PROBLEMS[change]}{HINT}"


def test_a_path_that_is_no_file() -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights="weights/net.pth"), CPU)
    assert str(error.value) == (
        "params.yaml: backbones.mine.weights = 'weights/net.pth' is not a file; give imagenet, random, or the path of "
        "a .pth or .safetensors file"
    )


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all, only text"], ids=["empty", "text"])
def test_a_file_that_holds_something_else(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights=str(tmp_path / file)), CPU)
    assert str(error.value).startswith(f"{tmp_path / file} cannot be read as weights (")
    assert "\n" not in str(error.value)


def test_a_list_is_not_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"net\.pth holds a list, not a state dict; save model\.state_dict\(\)$"):
        load_backbone("mine", entry(VIT, weights=save(tmp_path / "net.pth", [torch.zeros(1)])), CPU)


def test_a_whole_checkpoint_is_not_a_state_dict(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pth", {"epoch": 3, "model": fresh("test_vit", "timm").state_dict()})
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights=file), CPU)
    assert str(error.value) == f"{file} holds a whole checkpoint; save its part 'model' alone, as a state dict"


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pth", {"cls_token": Malicious(tmp_path / "ran")})
    with pytest.raises(WeightsError, match=r"cannot be read as weights"):
        load_backbone("mine", entry(VIT, weights=file), CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("weights", ["random", "imagenet"])
def test_mean_and_std_belong_to_files(weights: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_backbone("mine", entry(VIT, weights=weights, mean=[0.5] * 3, std=[0.5] * 3), CPU)
    assert str(error.value) == (
        "params.yaml: backbones.mine.mean and .std belong to weights from a file, and weights = "
        f"'{weights}' bring their own; remove them"
    )


# --- python -m stages weights ------------------------------------------------------------------------------------

TINY = ["--set", "backbones.tiny={library: timm, model: test_vit, layers: [block0]}"]


def stage(*arguments: str) -> str:
    """Output of the command; an error of the pipeline is raised, as `main` would catch it."""
    result = CliRunner().invoke(app, ["weights", *arguments, "--params", str(ROOT / "params.yaml"), *TINY])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_weights_are_carried_to_a_machine_without_network(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = place_hub(caches, VIT_REPOSITORY, fresh("test_vit", "timm").state_dict())
    blob = vit.parents[2] / "blobs" / "abcd"  # the hub keeps contents apart and links to them
    blob.parent.mkdir()
    vit.rename(blob)
    vit.symlink_to(blob)
    alexnet = place_torch(caches, "alexnet-owt-7be5be79.pth", {"features.0.bias": torch.ones(64)})
    stick = tmp_path / "stick"
    output = stage("tiny", "lpips", "--to", str(stick))
    assert output.count("wrote ") == 3  # two files, and the hub's note of which commit is main
    assert not any(path.is_symlink() for path in stick.rglob("*"))

    use_caches(tmp_path / "elsewhere", monkeypatch)
    assert "tiny: test_vit.r160_in1k, missing: model.safetensors of timm/test_vit.r160_in1k in " in stage()
    stage("tiny", "lpips", "--from", str(stick))
    assert "tiny: test_vit.r160_in1k, present" in stage("tiny")
    there = tmp_path / "elsewhere" / "torch" / "hub" / "checkpoints" / alexnet.name
    assert there.read_bytes() == alexnet.read_bytes()
    assert load_backbone("tiny", entry(VIT, weights="imagenet"), CPU).weights.detail == "test_vit.r160_in1k"


def test_to_downloads_what_is_missing(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, target: str, prefix: str | None) -> None:
        asked.append((url, prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    stage("lpips", "--to", str(tmp_path / "stick"))
    stage("lpips", "--to", str(tmp_path / "stick"))  # the second time it is in the cache
    assert asked == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")]
    assert (tmp_path / "stick" / "checkpoints" / "alexnet-owt-7be5be79.pth").read_bytes() == b"weights"


def test_from_a_folder_that_lacks_one_copies_nothing(caches: Path, tmp_path: Path) -> None:
    (tmp_path / "stick" / "checkpoints").mkdir(parents=True)
    (tmp_path / "stick" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"weights")
    with pytest.raises(WeightsError) as error:
        stage("lpips", "vgg16", "--from", str(tmp_path / "stick"))
    assert str(error.value) == (
        f"{tmp_path / 'stick'} does not hold vgg16-397923af.pth, the weights of VGG16_Weights.IMAGENET1K_V1; fill it "
        "by `python -m stages weights vgg16 --to DIR` on a machine with network"
    )
    assert not caches.exists()


def test_a_folder_that_cannot_be_written(caches: Path, tmp_path: Path) -> None:
    place_torch(caches, "alexnet-owt-7be5be79.pth", {"x": torch.ones(1)})
    (tmp_path / "stick").write_text("a file, not a folder")
    with pytest.raises(WeightsError, match=r"stick/checkpoints/alexnet.*\.pth cannot be written \(.*\); free the disk"):
        stage("lpips", "--to", str(tmp_path / "stick"))


def test_the_command_says_how_it_is_used() -> None:
    with pytest.raises(ParamsError, match=r"^weights: say which, for example `python -m stages weights vgg16 lpips"):
        stage("--to", "somewhere")
    with pytest.raises(ParamsError, match=r"^weights: --to and --from are for two machines; give one of them$"):
        stage("lpips", "--to", "somewhere", "--from", "elsewhere")
    with pytest.raises(ParamsError, match=r"^weights vgg: not in params.yaml; choose among: vgg16, .*, tiny, lpips$"):
        stage("vgg", "--to", "somewhere")
