"""A frozen network with its normalisation: RGB in, the features of all requested layers out, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pipeline.backbones import torchvision_networks
from pipeline.backbones.base import Network
from pipeline.backbones.normalization import Normalization, Normalize
from pipeline.backbones.table import NetworkSpec, check_layers, resolve
from pipeline.backbones.weights import WeightsRecord, seeded, state_sha256
from pipeline.errors import ShapeError
from pipeline.params import BackboneParams
from pipeline.sources import FeatureShape, ImageSize


class Backbone(nn.Module):
    """A frozen network and the layers that are wanted from it. `load_backbone` makes one.

    Frozen means: no parameter requires a gradient, and it is always in evaluation mode, whatever `train()` is
    called on it or on a module that holds it; so no batch-norm buffer ever moves. Gradients do flow to the images.
    """

    def __init__(
        self,
        name: str,
        spec: NetworkSpec,
        network: Network,
        layers: tuple[str, ...],
        normalization: Normalization,
        weights: WeightsRecord,
    ) -> None:
        super().__init__()
        self.name, self.spec, self.layers = name, spec, layers
        self.normalization, self.weights = normalization, weights
        self.normalize = Normalize(normalization)
        self.network = network.eval().requires_grad_(False)
        self._depths = sorted(network.layer_names.index(layer) for layer in layers)
        self._fitting: set[ImageSize] = set()  # image sizes already known to go through

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of every layer in `layers`, in that order, each (B, C, h, w).

        Args:
            images: (B, 3, H, W) float RGB in [0, 1], in any memory format, under autocast or not.

        Raises:
            ShapeError: the network cannot take images of this size.
        """
        size = ImageSize(*images.shape[-2:])
        if size not in self._fitting:
            self.shapes(size)
            self._fitting.add(size)
        found = self.network(self.normalize(images), self._depths)
        by_name = {
            self.network.layer_names[depth]: features for depth, features in zip(self._depths, found, strict=True)
        }
        return {layer: by_name[layer] for layer in self.layers}

    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        """Shape of each layer for images of this size, without computing anything. Raises ShapeError."""
        return _shapes(self.name, self.spec, self.layers, image)

    def describe(self) -> dict[str, Any]:
        """Everything about this network that determines its features, for manifests and fingerprints."""
        return {
            "name": self.name,
            "library": self.spec.library,
            "model": self.spec.model,
            "weights": {"kind": self.weights.kind, "detail": self.weights.detail, "sha256": self.weights.sha256},
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
        }

    def train(self, mode: bool = True) -> Self:
        """Does nothing but stay in evaluation mode."""
        return super().train(False)


def load_backbone(
    name: str, entry: BackboneParams, device: torch.device, layers: Sequence[str] | None = None
) -> Backbone:
    """The network of `backbones.<name>` with its weights, on `device`, ready to give `layers` (default: the entry's).

    Raises:
        ParamsError: unknown network, layer or tag. WeightsError: weights that cannot be had or do not fit.
    """
    spec = resolve(name, entry)
    network = seeded(lambda: _build(name, spec), entry.seed)
    wanted = check_layers(name, entry.layers if layers is None else layers, network.layer_names)
    record = WeightsRecord("random", f"seed {entry.seed}", state_sha256(network.model))
    return Backbone(name, spec, network, wanted, Normalization(), record).to(device)


def feature_shapes(
    name: str, entry: BackboneParams, layers: Sequence[str], image: ImageSize
) -> dict[str, FeatureShape]:
    """Shape of one row of each layer, from the architecture alone: no weights are read, nothing is computed.

    Raises:
        ParamsError: unknown network or layer. ShapeError: the network cannot take images of this size.
    """
    return _shapes(name, resolve(name, entry), layers, image)


def _shapes(name: str, spec: NetworkSpec, layers: Sequence[str], image: ImageSize) -> dict[str, FeatureShape]:
    with torch.device("meta"), torch.no_grad():
        network = _build(name, spec).eval()
        wanted = check_layers(name, layers, network.layer_names)
        depths = sorted(network.layer_names.index(layer) for layer in wanted)
        try:
            found = network(torch.empty(1, 3, image.height, image.width), depths)
        except (AssertionError, RuntimeError, ValueError) as error:  # how the libraries refuse a size
            reason = str(error).strip().splitlines()[0]
            raise ShapeError(f"{name} cannot take images of {image} pixels ({reason}); change prepare.crop") from None
    by_depth = dict(zip(depths, found, strict=True))
    return {layer: FeatureShape(*by_depth[network.layer_names.index(layer)].shape[1:]) for layer in wanted}


def _build(name: str, spec: NetworkSpec) -> Network:
    return torchvision_networks.build(name, spec.model)
