"""Weights from a file: whose trunk they are, every key and shape checked, and nothing in the file run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weight_caches import HALF, RESNET18, VIT, entry, fresh, same_numbers, use_empty_caches

from pipeline.backbones.backbone import load_backbone
from pipeline.core.errors import ParamsError, WeightsError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_empty_caches(tmp_path / "caches", monkeypatch)


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
