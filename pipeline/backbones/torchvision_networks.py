"""torchvision's VGG and ResNet families, cut into the blocks that the inversion literature names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import VGG, ResNet, get_model, list_models

from pipeline.backbones.base import Network
from pipeline.errors import ParamsError

FAMILIES = ("vgg", "resnet", "resnext", "wide_resnet")


class VggNetwork(Network):
    """`block1`…`block5`, each **after** its max-pool (Simonyan & Zisserman 2015, table 1).

    No ReLU acts in place on a returned tensor: what follows a pool is always a convolution.
    """

    model: VGG

    def __init__(self, model: VGG) -> None:
        super().__init__()
        self.head_keys = _drop(model, ("classifier",))
        self.model = model
        pools = [index for index, module in enumerate(model.features) if isinstance(module, nn.MaxPool2d)]
        self._ends = tuple(index + 1 for index in pools)
        self.layer_names = tuple(f"block{number}" for number in range(1, len(pools) + 1))

    def forward(self, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
        found, features, start = [], images, 0
        for depth, end in enumerate(self._ends[: depths[-1] + 1]):
            features = self.model.features[start:end](features)
            start = end
            if depth in depths:
                found.append(features)
        return found


class ResNetNetwork(Network):
    """`layer1`…`layer4`, the four stages of residual blocks (He et al. 2016, table 1).

    No ReLU acts in place on a returned tensor: a block adds its input to a tensor of its own.
    """

    layer_names = ("layer1", "layer2", "layer3", "layer4")
    model: ResNet

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.head_keys = _drop(model, ("fc",))
        self.model = model

    def forward(self, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
        found, model = [], self.model
        features = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        for depth, name in enumerate(self.layer_names[: depths[-1] + 1]):
            features = model.get_submodule(name)(features)
            if depth in depths:
                found.append(features)
        return found


def build(name: str, model_name: str) -> Network:
    """The network `model_name` as torchvision initialises it.

    Raises:
        ParamsError: torchvision has no such model, or it is of neither family.
    """
    legal = [known for known in list_models() if known.startswith(FAMILIES)]
    if model_name not in legal:
        raise ParamsError(
            f"params.yaml: backbones.{name}.model = {model_name!r} is not one of torchvision's VGGs and ResNets "
            f"({', '.join(legal)}); for other architectures use library: timm"
        )
    model = get_model(model_name, weights=None)
    return VggNetwork(model) if isinstance(model, VGG) else ResNetNetwork(model)


def _drop(model: nn.Module, children: Sequence[str]) -> frozenset[str]:
    """Remove the head: VGG-16's alone is 494 MB that no feature depends on."""
    before = set(model.state_dict())
    for child in children:
        delattr(model, child)
    return frozenset(before - set(model.state_dict()))
