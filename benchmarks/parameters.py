"""`python -m benchmarks.parameters`: parameters of every decoder on every source, as docs/decoders.md shows them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline.backbones.backbone import feature_shapes
from pipeline.core.params import load_params
from pipeline.core.sources import FeatureShape, ImageSize, Source
from pipeline.core.tables import markdown_table
from pipeline.models.common.decoder import DECODERS, build_decoder
from pipeline.models.common.fusion import FUSIONS, build_fusion

IMAGE = ImageSize(224, 224)
PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
LAYERS = {
    "vgg16": ("block1", "block2", "block3", "block4", "block5"),
    "resnet34": ("layer1", "layer2", "layer3", "layer4"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "vit_small": ("block0",),  # every block has the same shape
    "vit_base": ("block0",),
    "pvt_v2_b2": ("stage1", "stage2", "stage3", "stage4"),
    "efficientnet_lite0": ("stage1", "stage2", "stage3", "stage4", "stage5"),
    "efficientnet_lite1": ("stage1", "stage2", "stage3", "stage4", "stage5"),
    "efficientnet_lite2": ("stage1", "stage2", "stage3", "stage4", "stage5"),
}
ENSEMBLE = ("resnet34.layer1", "vgg16.block1", "vit_small.block0", "pvt_v2_b2.stage1")


def source_shapes() -> dict[Source, FeatureShape]:
    """Every source of the table of backbones, at 224×224."""
    shapes: dict[Source, FeatureShape] = {}
    for backbone, layers in LAYERS.items():
        found = feature_shapes(backbone, PARAMS.backbone_params(backbone), layers, IMAGE)
        shapes |= {Source(backbone, layer): shape for layer, shape in found.items()}
    return shapes


def decoder_table(shapes: dict[Source, FeatureShape]) -> str:
    """One row for each different shape, with the sources that have it."""
    options = {name: PARAMS.model_copy(update={"decoder": name}).decoder_options for name in DECODERS.names()}
    rows = []
    for shape in dict.fromkeys(shapes.values()):
        sources = [_label(source) for source, its_shape in shapes.items() if its_shape == shape]
        counts = [_count(build_decoder(name, options[name], shape, IMAGE)) for name in DECODERS.names()]
        rows.append((str(shape), ", ".join(sources), *counts))
    return markdown_table(("shape", "sources", *DECODERS.names()), rows)


def fusion_table(shapes: dict[Source, FeatureShape]) -> str:
    """Two, three and four sources of the published ensemble."""
    names = [name for name in FUSIONS.names() if name != "none"]
    options = {name: PARAMS.model_copy(update={"fusion": name}).fusion_options for name in names}
    sources = [Source.parse(text) for text in ENSEMBLE]
    rows = []
    for count in (2, 3, 4):
        chosen = [shapes[source] for source in sources[:count]]
        counts = [_count(build_fusion(name, options[name], chosen)) for name in names]
        rows.append((" + ".join(map(_label, sources[:count])), *counts))
    return markdown_table(("sources", *names), rows)


def tables() -> str:
    """Both tables, at the default options; nothing is computed, only shapes are."""
    shapes = source_shapes()
    with torch.device("meta"):
        return f"{decoder_table(shapes)}\n\n{fusion_table(shapes)}"


def _label(source: Source) -> str:
    """ViT blocks are all alike: `vit_small.block*`."""
    return f"`{str(source).replace('block0', 'block*')}`"


def _count(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


if __name__ == "__main__":
    print(tables())
