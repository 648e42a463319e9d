"""Weights from a file: whose trunk they are, every key and shape checked, and nothing in the file run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import says
from safetensors.torch import save_file
from weight_caches import HALF, RESNET18, VIT, entry, fresh, place_hub, place_torch, same_numbers, use_empty_caches

from pipeline.backbones.backbone import load_backbone
from pipeline.backbones.checking import check_types
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
            return {key.upper(): value for key, value in state.items()}
        case "int8":
            state["norm.weight"] = torch.ones(64, dtype=torch.int8)
        case "complex":
            state["norm.weight"] = torch.ones(64, dtype=torch.complex64)
        case "float8":
            state["norm.weight"] = torch.ones(64).to(torch.float8_e4m3fn)
        case "quantised":
            state["norm.weight"] = torch.quantize_per_tensor(torch.ones(64), 0.1, 3, torch.qint8)
        case "sparse":
            state["norm.weight"] = torch.ones(64).to_sparse()
        case "overflow":
            state["norm.weight"] = torch.full((64,), 1e300, dtype=torch.float64)
    return state


HINT = "; save the state dict of the library's own model, or change backbones.<name>.model"
PROBLEMS = {
    "missing": "'cls_token' is missing",
    "shape": "'norm.bias' is 65, not 64",
    "extra": "'blocks.6.norm1.weight' belongs to no part of it",
    "nan": "'norm.weight' holds values that are not finite",
    "text": "'norm.weight' is a str, not a tensor",
    "many": "158 keys do not fit: its first keys are 'CLS_TOKEN', 'POS_EMBED', 'PATCH_EMBED.PROJ.WEIGHT', the "
    "network's are 'cls_token', 'pos_embed', 'patch_embed.proj.weight'",
    "int8": "'norm.weight' is of type int8, which are not the weights but codes of them without their scale; "
    "save them as float32",
    "complex": "'norm.weight' is of type complex64, ",
    "float8": "'norm.weight' is of type float8_e4m3fn, ",
    "quantised": "'norm.weight' is of type qint8, ",
    "sparse": "'norm.weight' is sparse",
    "overflow": "'norm.weight' holds values that are not finite",
}


@pytest.mark.parametrize("change", PROBLEMS)
def test_every_key_and_shape_is_checked(tmp_path: Path, change: str) -> None:
    file = save(tmp_path / "net.pth", broken(change))
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights=file), CPU)
    assert str(error.value).startswith(f"{file} does not hold the weights of this network: {PROBLEMS[change]}")
    assert str(error.value).endswith(HINT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_real_numbers_of_another_type_are_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in fresh("test_vit", "timm").state_dict().items()}
    backbone = load_backbone("mine", entry(VIT, weights=save(tmp_path / "net.pth", state)), CPU)
    own = backbone.network.model.state_dict()
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, state[key].float()) for key, tensor in own.items())


def test_a_variance_below_zero_is_named(tmp_path: Path) -> None:
    state = fresh("resnet18").state_dict()
    state["layer1.0.bn1.running_var"][3] = -0.5
    with pytest.raises(WeightsError, match=r"'layer1\.0\.bn1\.running_var' holds a variance of -0\.5; .* at least 0"):
        load_backbone("mine", entry(RESNET18, weights=save(tmp_path / "net.pth", state)), CPU)


def test_what_no_feature_depends_on_may_be_missing_and_leaves_the_hash_alone(tmp_path: Path) -> None:
    state = fresh("resnet18").state_dict()
    counted = {key: value + 7 if key.endswith("num_batches_tracked") else value for key, value in state.items()}
    stripped = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    files = [save(tmp_path / f"{name}.pth", kept) for name, kept in (("counted", counted), ("stripped", stripped))]
    found = [load_backbone("mine", entry(RESNET18, weights=file), CPU) for file in files]
    assert all(same_numbers(backbone, state) for backbone in found)
    assert found[0].weights.sha256 == found[1].weights.sha256


def test_published_weights_of_older_torch_load_too(caches: Path) -> None:
    state = fresh("resnet18").state_dict()
    stripped = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    place_torch(caches, "resnet18-f37072fd.pth", stripped)
    backbone = load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    assert same_numbers(backbone, state)
    assert backbone(torch.rand(1, 3, 32, 32))["layer1"].isfinite().all()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("change", "said"),
    [("int8", "is of type int8"), ("int64", "is of type int64"), ("variance", "holds a variance of -0.5")],
)
def test_published_weights_are_checked_like_files(caches: Path, library: str, change: str, said: str) -> None:
    model = "resnet18" if library == "torchvision" else "test_resnet"
    state = fresh(model, library).state_dict()
    variance = next(key for key in state if key.endswith("running_var"))
    if change.startswith("int"):
        state[variance] = state[variance].to(getattr(torch, change))
    else:
        state[variance][0] = -0.5
    chosen = dict(RESNET18)
    if library == "torchvision":
        place_torch(caches, "resnet18-f37072fd.pth", state)
    else:
        place_hub(caches, "timm/test_resnet.r160_in1k", state)
        chosen |= {"library": "timm", "model": model, "layers": ["stage2"]}
    with pytest.raises(WeightsError, match=rf"'{re.escape(variance)}' {said}"):
        load_backbone("mine", entry(chosen, weights="imagenet"), CPU)


@pytest.mark.parametrize("types", [np.int8, np.int32, np.uint16])
def test_weights_of_jax_are_checked_for_their_types(tmp_path: Path, types: type) -> None:
    good = {"embedding/kernel": np.ones((2, 2), np.float32), "norm/scale": np.ones(2, "V2"), "step": np.int64(3)}
    np.savez(tmp_path / "good.npz", **good)
    check_types(np.load(tmp_path / "good.npz"), "good.npz")
    np.savez(tmp_path / "codes.npz", **good | {"head/kernel": np.ones((2, 2), types)})
    with pytest.raises(
        WeightsError, match=rf"codes\.npz .* 'head/kernel' is of type {np.dtype(types)}, .* save them as"
    ):
        check_types(np.load(tmp_path / "codes.npz"), "codes.npz")


# --- what trainers put around a state dict ----------------------------------------------------------------------------


def behind(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


WRAPPED = {
    "without the prefix 'module.'": lambda state: behind("module.", state),
    "without the prefix 'module.backbone.'": lambda state: behind("module.backbone.", state),
    "its part 'state_dict'": lambda state: {"epoch": 3, "state_dict": state},
    "without the prefix 'module.model.'": lambda state: behind("module.model.", state),
    "its part 'model_state'": lambda state: {"model_state": state, "epoch": 3},
    "its part 'ema', without the prefix '_orig_mod.'": lambda state: {"ema": behind("_orig_mod.", state)},
    "its part 'state_dict', without the prefix 'net.'": lambda state: {"state_dict": behind("net.", state)},
    "its part 'model'": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "its part 'state_dict', without the prefix 'model.'": lambda state: {
        "state_dict": behind("model.", state),
        "pytorch-lightning_version": "2.5",
        "callbacks": {},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "library"), [("resnet18", "torchvision"), ("test_vit", "timm")])
@pytest.mark.parametrize("taken_off", WRAPPED)
def test_a_common_wrapper_or_prefix_is_taken_off_said_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], taken_off: str, model: str, library: str
) -> None:
    values = RESNET18 if library == "torchvision" else VIT
    state = fresh(model, library).state_dict()
    backbone = load_backbone("mine", entry(values, weights=save(tmp_path / "net.pth", WRAPPED[taken_off](state))), CPU)
    assert same_numbers(backbone, state)
    assert backbone.weights.detail == f"net.pth ({taken_off})"
    assert f"net.pth fits as {taken_off}" in capsys.readouterr().err
    plain = load_backbone("mine", entry(values, weights=save(tmp_path / "plain.pth", state)), CPU)
    assert plain.weights.sha256 == backbone.weights.sha256
    assert capsys.readouterr().err == ""


def test_a_wrapped_state_dict_is_checked_like_a_plain_one(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pth", {"state_dict": behind("module.", broken("nan"))})
    with pytest.raises(WeightsError, match=r"'norm\.weight' holds values that are not finite"):
        load_backbone("mine", entry(VIT, weights=file), CPU)


def test_a_prefix_that_not_all_keys_have_is_not_guessed(tmp_path: Path) -> None:
    state = behind("student.", fresh("test_vit", "timm").state_dict()) | {"loss.weight": torch.ones(3)}
    for wrapped in (state, {"epoch": 3, "state_dict": state, "callbacks": {}}):
        with pytest.raises(WeightsError) as error:
            load_backbone("mine", entry(VIT, weights=save(tmp_path / "net.pth", wrapped)), CPU)
        assert "its first keys are 'student.cls_token', " in str(error.value)
        assert "the network's are 'cls_token', " in str(error.value)


def test_a_checkpoint_that_holds_the_network_twice_does_not_say_which(tmp_path: Path) -> None:
    state = fresh("test_vit", "timm").state_dict()
    file = save(tmp_path / "net.pth", {"model": state, "model_ema": behind("module.", state)})
    with pytest.raises(WeightsError, match=r"2 times, as 'model' and 'model_ema'; save one of them alone"):
        load_backbone("mine", entry(VIT, weights=file), CPU)


def test_a_path_that_is_no_file() -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights="weights/net.pth"), CPU)
    says(error.value, "backbones.mine.weights = 'weights/net.pth'", "is not a file", ".pth or .safetensors")


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all, only text"], ids=["empty", "text"])
def test_a_file_that_holds_something_else(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError) as error:
        load_backbone("mine", entry(VIT, weights=str(tmp_path / file)), CPU)
    assert str(error.value).startswith(f"{tmp_path / file} cannot be read as weights (")
    assert_own_words(str(error.value))


def test_a_list_is_not_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"net\.pth holds a list, not a state dict; save model\.state_dict\(\)$"):
        load_backbone("mine", entry(VIT, weights=save(tmp_path / "net.pth", [torch.zeros(1)])), CPU)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def assert_own_words(sentence: str) -> None:
    assert not any(foreign in sentence for foreign in ("\x1b", "\n", "weights_only", "allowlist", "safe_globals"))


def test_code_in_a_file_is_never_run(tmp_path: Path, caches: Path) -> None:
    content = {"cls_token": Malicious(tmp_path / "ran")}
    legacy = str(tmp_path / "legacy.pth")
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    for file in (save(tmp_path / "net.pth", content), legacy):
        with pytest.raises(WeightsError, match=r"cannot be read as weights \(it holds the Python object") as error:
            load_backbone("mine", entry(VIT, weights=file), CPU)
        assert_own_words(str(error.value))
        assert "save model.state_dict() alone" in str(error.value)
        assert ".load_from_checkpoint(" in str(error.value)
    place_torch(caches, "resnet18-f37072fd.pth", content)
    with pytest.raises(WeightsError, match=r"it holds the Python object") as error:
        load_backbone("mine", entry(RESNET18, weights="imagenet"), CPU)
    assert_own_words(str(error.value))
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_named_for_what_it_is(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pth", fresh("resnet18"))
    with pytest.raises(WeightsError, match=r"it holds the Python object torchvision\.models\.resnet\.ResNet"):
        load_backbone("mine", entry(RESNET18, weights=file), CPU)


@pytest.mark.parametrize("weights", ["random", "imagenet", "package"])
def test_mean_and_std_belong_to_files(weights: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_backbone("mine", entry(VIT, weights=weights, mean=[0.5] * 3, std=[0.5] * 3), CPU)
    says(error.value, "backbones.mine.mean", f"'{weights}'", "remove")
