"""torchvision's VGG and ResNet families, cut into the blocks that the inversion literature names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import VGG, ResNet, WeightsEnum, get_model, get_model_weights, list_models

from pipeline.backbones.base import Library, Network, Published, drop_head
from pipeline.backbones.caches import TorchHubFile
from pipeline.backbones.checking import check_state
from pipeline.backbones.normalization import Normalization
from pipeline.core.errors import ParamsError
from pipeline.core.section import unknown_name

FAMILIES = ("vgg", "resnet", "resnext", "wide_resnet")
DEFAULT_TAG = "IMAGENET1K_V1"  # the weights of the papers' generation, not torchvision's later recipes


class VggNetwork(Network):
    """`block1`…`block5`, each **after** its max-pool (Simonyan & Zisserman 2015, table 1).

    No ReLU acts in place on a returned tensor: what follows a pool is always a convolution.
    """

    model: VGG

    def __init__(self, model: VGG) -> None:
        super().__init__()
        self.head_keys = drop_head(model, ("classifier",))  # VGG-16's alone is 494 MB
        self.model = model
        pools = [index for index, module in enumerate(model.features) if isinstance(module, nn.MaxPool2d)]
        self._ends = tuple(index + 1 for index in pools)
        self.layer_names = tuple(f"block{number}" for number in range(1, len(pools) + 1))

    def forward(self, images: Tensor, depths: Sequence[int], whole: bool = False) -> list[Tensor]:
        found, features, start = [], images, 0
        for depth, end in enumerate(self._ends if whole else self._ends[: depths[-1] + 1]):
            features = self.model.features[start:end](features)
            start = end
            if depth in depths:
                found.append(features)
        if whole:
            self.model.avgpool(features)
        return found


class ResNetNetwork(Network):
    """`layer1`…`layer4`, the four stages of residual blocks (He et al. 2016, table 1).

    No ReLU acts in place on a returned tensor: a block adds its input to a tensor of its own.
    """

    layer_names = ("layer1", "layer2", "layer3", "layer4")
    model: ResNet

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.head_keys = drop_head(model, ("fc",))
        self.model = model

    def forward(self, images: Tensor, depths: Sequence[int], whole: bool = False) -> list[Tensor]:
        found, model = [], self.model
        features = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        for depth, name in enumerate(self.layer_names if whole else self.layer_names[: depths[-1] + 1]):
            features = model.get_submodule(name)(features)
            if depth in depths:
                found.append(features)
        if whole:
            model.avgpool(features)
        return found


class Torchvision(Library):
    def check(self, name: str, model: str) -> None:
        legal = [known for known in list_models() if known.startswith(FAMILIES)]
        if model not in legal:
            raise ParamsError(
                f"params.yaml: backbones.{name}.model = {model!r} is not one of torchvision's VGGs and ResNets "
                f"({', '.join(legal)}); for other architectures use library: timm"
            )

    def build(self, model: str) -> Network:
        module = get_model(model, weights=None)
        return VggNetwork(module) if isinstance(module, VGG) else ResNetNetwork(module)

    def published(self, name: str, model: str, tag: str | None) -> Published:
        weights = _weights(name, model, tag or DEFAULT_TAG)
        preset = weights.transforms()
        return Published(str(weights), Normalization.of(preset.mean, preset.std), TorchHubFile(weights.url))

    def build_published(self, model: str, published: Published) -> Network:
        weights = get_model_weights(model)[published.label.partition(".")[2]]
        state = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        with torch.device("meta"):  # nothing is initialised only to be overwritten
            network = self.build(model)
        network.model.load_state_dict(check_state(network, state, published.file.name), assign=True)
        return network


def _weights(name: str, model: str, tag: str) -> WeightsEnum:
    legal = {weights.name: weights for weights in get_model_weights(model)}  # without DEFAULT, which moves
    if tag not in legal:
        raise ParamsError(unknown_name(f"backbones.{name}.tag", tag, legal))
    return legal[tag]
