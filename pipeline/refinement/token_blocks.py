"""The blocks of a plain vision transformer as a function of its patch tokens, to be inverted."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pipeline.backbones.backbone import LIBRARIES, Backbone
from pipeline.backbones.table import resolve
from pipeline.core.errors import ParamsError
from pipeline.core.params import BackboneParams


class TokenBlocks:
    """From the patch tokens that enter a ViT's first block to the patch tokens of one of its layers.

    The class token (and register tokens, if any) need not be stored: they enter the first block as constants, equal for
    every image, and their later values are computed from the patch tokens. So only patch tokens of the photograph are
    used.

    Attributes:
        blocks: from the first to the layer's own, each (B, prefix + h·w, C) → the same.
        prefix: the class and register tokens that enter the first block, (1, prefix, C).
        position: the position embedding of the patch tokens, (1, C, h, w).
    """

    def __init__(self, backbone: Backbone, layer: str, grid: tuple[int, int]) -> None:
        """`grid` is height and width of the layer's features. Raises ParamsError: not a plain vision transformer."""
        model = _plain(backbone.name, backbone.network.model)
        depth = backbone.network.layer_names.index(layer)
        self.blocks = model.blocks[: depth + 1]
        with torch.no_grad():
            nothing = torch.zeros(1, *grid, model.embed_dim, device=next(model.parameters()).device)
            embedded = model._pos_embed(nothing if model.dynamic_img_size else nothing.flatten(1, 2))
        self.prefix = embedded[:, : model.num_prefix_tokens]
        self.position = embedded[:, model.num_prefix_tokens :].mT.unflatten(2, grid).contiguous()


def check_token_blocks(name: str, entry: BackboneParams, layer: str) -> None:
    """Raise ParamsError unless the layer is a block of a plain vision transformer. No weights are read."""
    spec = resolve(name, entry)
    with torch.device("meta"):
        network = LIBRARIES[spec.library].build(spec.model)
        _plain(name, network.model)
    if layer not in network.layer_names:
        raise ParamsError(
            f"params.yaml: the refiner block_inverse inverts whole blocks, but {name}.{layer} is a module; choose one "
            f"of {', '.join(network.layer_names)}, or another refiner"
        )


def _plain(name: str, model: nn.Module) -> VisionTransformer:
    if isinstance(model, VisionTransformer) and model.pos_embed is not None and isinstance(model.norm_pre, nn.Identity):
        return model
    raise ParamsError(
        f"params.yaml: the refiner block_inverse inverts the blocks of a plain vision transformer, but "
        f"{name} is a {type(model).__name__}; choose vit_small or vit_base, or the refiner map"
    )
