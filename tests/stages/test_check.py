"""`python -m stages check` says which published weights `extract` will have to download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from pipeline.core.errors import ParamsError
from stages import loading
from stages.__main__ import app

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # nothing is fetched here
    monkeypatch.chdir(tmp_path)


def check(*overrides: str) -> Result:
    options = [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(app, ["check", "--params", str(PARAMS), *options])
    assert result.exit_code == 0, result.output
    assert Path("data/checked").read_bytes() == b"params.yaml is valid\n"
    return result


def test_missing_weights_are_a_note_that_says_how_to_get_them(tmp_path: Path) -> None:
    folder = tmp_path / "torch/hub/checkpoints"
    assert check("backbones.vgg16.weights=imagenet").stderr == (
        f"note: vgg16-397923af.pth, the weights of VGG16_Weights.IMAGENET1K_V1, is not in {folder}; extract will "
        "download it. Without network here, run `python -m stages weights vgg16 --to DIR` on a machine that has it, "
        "bring DIR and run `python -m stages weights vgg16 --from DIR`\n"
    )
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").touch()
    assert check("backbones.vgg16.weights=imagenet").stderr == ""


def test_weights_that_the_experiment_does_not_use_are_no_ones_concern() -> None:
    assert check("backbones.vit_small.weights=imagenet", "backbones.resnet34.weights=imagenet").stderr == ""


def test_each_network_of_an_ensemble_has_its_note() -> None:
    second = ("fusion=concat", "ensemble.second.backbone=vit_small", "ensemble.second.layer=block0")
    networks = ("backbones.vgg16.weights=imagenet", "backbones.vit_small.weights=imagenet")
    notes = check(*second, *networks).stderr.splitlines()
    assert [note.partition(" is not in ")[0].rpartition(" of ")[2] for note in notes] == [
        "VGG16_Weights.IMAGENET1K_V1,",
        "vit_small_patch16_224.augreg_in21k_ft_in1k,",
    ]


def test_what_check_has_proved_is_not_proved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[str] = []
    monkeypatch.setattr("stages.choices.check_experiment", lambda params: proved.append(params.decoder))
    loading.load_checked(PARAMS, [])
    assert proved == ["transposed_conv"]  # nothing was remembered before
    check()
    loading.load_checked(PARAMS, [])
    assert len(proved) == 2  # by check itself
    loading.load_checked(PARAMS, ["decoder=wavelet"])
    assert proved[2:] == ["wavelet"]
    monkeypatch.setattr("stages.proof.code", lambda: "edited")
    loading.load_checked(PARAMS, [])
    assert len(proved) == 4


def test_a_typo_is_refused_whatever_was_proved() -> None:
    check()
    with pytest.raises(ParamsError, match="wavelett"):
        loading.load_checked(PARAMS, ["decoder=wavelett"])
