"""`python -m stages check` says which published weights `extract` will have to download."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from messages import says
from typer.testing import CliRunner, Result

from pipeline.core.errors import ParamsError, ShapeError
from pipeline.core.params import load_params
from stages import loading, proof
from stages.__main__ import app

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # nothing is fetched here
    monkeypatch.chdir(tmp_path)


VGG = ("backbone=vgg16", "layer=block1")


def check(*overrides: str) -> Result:
    options = [part for override in overrides for part in ("--set", override)]
    result = CliRunner().invoke(app, ["check", "--params", str(PARAMS), *options])
    assert result.exit_code == 0, result.output
    assert Path("data/checked").read_bytes() == b"params.yaml is valid\n"
    return result


def test_missing_weights_are_a_note_that_says_how_to_get_them(tmp_path: Path) -> None:
    folder = tmp_path / "torch/hub/checkpoints"
    says(
        check(*VGG, "backbones.vgg16.weights=imagenet").stderr,
        "note: vgg16-397923af.pth",
        f"not in {folder}",
        "extract will download",
        "`python -m stages weights vgg16 --to DIR`",
        "`python -m stages weights vgg16 --from DIR`",
    )
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").touch()
    assert check(*VGG, "backbones.vgg16.weights=imagenet").stderr == ""


def test_weights_that_the_experiment_does_not_use_are_no_ones_concern() -> None:
    assert check("backbones.vit_small.weights=imagenet", "backbones.resnet34.weights=imagenet").stderr == ""


def test_each_network_of_an_ensemble_has_its_note() -> None:
    second = ("fusion=concat", "ensemble.second.backbone=vit_small", "ensemble.second.layer=block0")
    networks = ("backbones.vgg16.weights=imagenet", "backbones.vit_small.weights=imagenet")
    notes = check(*VGG, *second, *networks).stderr.splitlines()
    assert [note.partition(" is not in ")[0].rpartition(" of ")[2] for note in notes] == [
        "VGG16_Weights.IMAGENET1K_V1,",
        "vit_small_patch16_224.augreg_in21k_ft_in1k,",
    ]


def test_what_check_has_proved_is_not_proved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[str] = []
    monkeypatch.setattr("stages.choices.check_experiment", lambda params: proved.append(params.decoder))
    loading.load_checked(PARAMS, [])
    assert proved == ["residual"]  # nothing was remembered before
    check()
    loading.load_checked(PARAMS, [])
    assert len(proved) == 2  # by check itself
    loading.load_checked(PARAMS, ["decoder=wavelet"])
    assert proved[2:] == ["wavelet"]
    monkeypatch.setattr("stages.proof.code", lambda: "edited")
    loading.load_checked(PARAMS, [])
    assert len(proved) == 4


LOADED = """
import sys
from stages.__main__ import main
sys.argv = ["stages", *sys.argv[1:]]
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "torchvision", "timm"} & {*sys.modules}))
"""


def loaded(*overrides: str) -> str:
    """What a `check` of its own process loads."""
    options = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-c", LOADED, "check", "--params", str(PARAMS), *options]
    environment = os.environ | {"PYTHONPATH": str(PARAMS.parent)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


def test_check_loads_only_what_is_not_yet_proved(tmp_path: Path) -> None:
    weights = tmp_path / "resnet34.safetensors"
    weights.touch()
    of_a_file = f"backbones.resnet34.weights={weights}"
    check(of_a_file)
    assert loaded(of_a_file) == "loaded:"
    assert loaded(of_a_file, "decoder=linear") == "loaded: torch"  # networks and their shapes are known
    weights.unlink()
    assert not proof.proved(load_params(PARAMS, [of_a_file]))  # nothing is known of that file
    assert proof.shapes(load_params(PARAMS, [of_a_file, "decoder=linear"])) is None


@pytest.mark.slow
def test_known_shapes_refuse_what_does_not_go_together() -> None:
    check("prepare.crop=100", "decoder=linear")
    source = ("prepare.crop=100", "backbone=resnet34", "layer=layer4")
    check(*source, "decoder=linear")
    with pytest.raises(ShapeError, match=r"^resnet34.layer4 and decoder = 'wavelet' do not go together: .* ratio 25 "):
        loading.load_checked(PARAMS, [*source, "decoder=wavelet"])
    with pytest.raises(ShapeError, match=r"^vit_small cannot take images of 100×100 pixels"):
        loading.load_checked(PARAMS, ["prepare.crop=100", "backbone=vit_small", "layer=block0"])


def test_a_typo_is_refused_whatever_was_proved() -> None:
    check()
    with pytest.raises(ParamsError, match="wavelett"):
        loading.load_checked(PARAMS, ["decoder=wavelett"])
