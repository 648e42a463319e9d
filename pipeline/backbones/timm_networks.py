"""Every timm model with `forward_intermediates`: plain and hierarchical transformers, and convolutional networks.

Layer names: timm numbers a model's intermediates and has no names for them that hold across models, so this module
names them by their shapes. If all have one height and width, as the blocks of a plain ViT, they are `block0`,
`block1`, …; otherwise, as the stages of PVT, Swin or ConvNeXt, they are `stage1`, `stage2`, … (the papers count
blocks from 0 and stages from 1). In networks whose stem timm counts as an intermediate (its own ResNets), `stage1` is
that stem.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import timm
import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg
from torch import Tensor, nn

from pipeline.backbones.base import Library, Network, Published, drop_head, reason
from pipeline.backbones.caches import CachedFile, HubFile, TorchHubFile
from pipeline.backbones.normalization import Normalization
from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.section import did_you_mean, unknown_name


@dataclass(frozen=True)
class Outline:
    """A model's layers, and the options with which timm builds it for any image size."""

    layer_names: tuple[str, ...]
    options: dict[str, Any]


class TimmNetwork(Network):
    """A timm model, read through its own `forward_intermediates`: feature maps without class and register tokens."""

    def __init__(self, model: nn.Module, layer_names: tuple[str, ...]) -> None:
        super().__init__()
        heads = _configuration(model)["classifier"]
        self.head_keys = drop_head(model, (heads,) if isinstance(heads, str) else tuple(heads or ()))
        self.model = model
        self.layer_names = layer_names

    def forward(self, images: Tensor, depths: Sequence[int], whole: bool = False) -> list[Tensor]:
        if not whole:
            return _intermediates(self.model, images, list(depths))
        model = cast(Any, self.model)
        last, found = model.forward_intermediates(images, indices=list(depths), output_fmt="NCHW")
        model.forward_head(last)
        return cast(list[Tensor], found)


class Timm(Library):
    def check(self, name: str, model: str) -> None:
        if "." in model and timm.is_model(model.partition(".")[0]):
            architecture, _, tag = model.partition(".")
            raise ParamsError(
                f"params.yaml: backbones.{name}.model = {model!r} holds a tag; "
                f"write model: {architecture} and tag: {tag}"
            )
        if not timm.is_model(model):
            raise ParamsError(
                f"params.yaml: backbones.{name}.model = {model!r} is not a timm model"
                f"{did_you_mean(model, timm.list_models())}; timm.list_models() lists them"
            )

    def check_maps(self, name: str, model: str) -> None:
        try:
            outline(model)
        except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ParamsError(
                f"params.yaml: backbones.{name}.model = {model!r} gives no feature maps by timm's "
                f"forward_intermediates ({reason(error)}); choose another model"
            ) from None

    def build(self, model: str) -> Network:
        known = outline(model)
        return TimmNetwork(timm.create_model(model, **known.options), known.layer_names)

    def published(self, name: str, model: str, tag: str | None) -> Published:
        configurations = {full.partition(".")[2]: cfg for full, cfg in get_arch_pretrained_cfgs(model).items()}
        if tag is not None and tag not in configurations:
            raise ParamsError(unknown_name(f"backbones.{name}.tag", tag, configurations))
        cfg = get_pretrained_cfg(model) if tag is None else configurations[tag]
        if cfg is None or not cfg.has_weights:
            raise WeightsError(
                f"timm publishes no weights {model}{f'.{tag}' if tag else ''}; "
                f"set backbones.{name}.weights to random or to the path of a state dict"
            )
        return Published(f"{model}.{cfg.tag}", Normalization.of(cfg.mean, cfg.std), _file(cfg))

    def build_published(self, model: str, published: Published) -> Network:
        known = outline(model)
        module = timm.create_model(published.label, pretrained=True, **known.options)
        return TimmNetwork(module, known.layer_names)


@lru_cache(maxsize=64)
def outline(model: str) -> Outline:
    """Build `model` on the meta device and read its layers. Raises the errors of timm."""
    with torch.device("meta"), torch.no_grad():
        module = timm.create_model(model).eval()
        images = torch.empty(1, *_configuration(module)["input_size"])
        found = _intermediates(module, images, None)
    if not all(isinstance(features, Tensor) and features.ndim == 4 for features in found):
        raise ValueError("its intermediates are not maps")
    plain = len({features.shape[2:] for features in found}) == 1
    names = tuple(f"block{index}" if plain else f"stage{index + 1}" for index in range(len(found)))
    return Outline(names, {"dynamic_img_size": True} if _resizable(module) else {})


def _intermediates(model: nn.Module, images: Tensor, indices: list[int] | None) -> list[Tensor]:
    return model.forward_intermediates(  # type: ignore[operator]  # a method of timm's models, not of nn.Module
        images, indices=indices, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )


def _configuration(model: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], model.pretrained_cfg)


def _resizable(model: nn.Module) -> bool:
    """Whether timm can build it for any image size: ViTs then resample their position embedding, Swins pad."""
    return any("dynamic_img_size" in inspect.signature(part).parameters for part in type(model).__mro__)


def _file(cfg: Any) -> CachedFile:
    """The file that timm reads for these weights: in the hub if it has a repository, else in torch.hub's folder."""
    if cfg.hf_hub_id:
        return HubFile(cfg.hf_hub_id, cfg.hf_hub_filename)
    return TorchHubFile(cfg.url) if isinstance(cfg.url, str) else TorchHubFile(*cfg.url)
