"""Caches of torch and of the hub with weights of this machine's own making, and no network to fetch others."""

from __future__ import annotations

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
from shipped import backbone_params
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.core.params import BackboneParams

HALF = (0.5, 0.5, 0.5)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESNET18 = {"library": "torchvision", "model": "resnet18", "layers": ["layer1"]}
VIT = {"library": "timm", "model": "test_vit", "layers": ["block0"]}
VIT_REPOSITORY = "timm/test_vit.r160_in1k"
State = dict[str, Tensor]


def use_empty_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch and of the hub, and no network: TORCH_HOME is read at each use, HF_HOME at import."""
    use_caches(folder, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    return folder


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
    return backbone_params(**{**values, **more})


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
