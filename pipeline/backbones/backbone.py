"""A frozen network with its normalisation: from RGB images to the features of all requested layers in one pass."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.backbones.base import FrozenNetwork, Library, Network, Published, reason
from pipeline.backbones.modules import caught, module_paths, read
from pipeline.backbones.normalization import Normalize
from pipeline.backbones.packaged import Package, packaged
from pipeline.backbones.table import NetworkSpec, check_layers, resolve
from pipeline.backbones.timm_networks import Timm
from pipeline.backbones.torchvision_networks import Torchvision
from pipeline.backbones.weights import Loaded, load_network, weights_file
from pipeline.core.errors import PipelineError, ShapeError
from pipeline.core.params import BackboneParams
from pipeline.core.runtime import enough_memory
from pipeline.core.sources import FeatureShape, ImageSize

LIBRARIES: dict[str, Library] = {"torchvision": Torchvision(), "timm": Timm()}


class Backbone(FrozenNetwork):
    """A frozen network with its requested layers, made by `load_backbone`.

    Frozen means that no parameter requires a gradient and that the network stays in evaluation mode, even if `train()`
    is called on it or on a module that contains it, so no batch-norm buffer changes. Gradients flow to the images.
    """

    def __init__(self, name: str, spec: NetworkSpec, layers: tuple[str, ...], loaded: Loaded) -> None:
        super().__init__()
        self.name, self.spec, self.layers = name, spec, layers
        self.weights, self.normalization = loaded.record, loaded.normalization
        self.normalize = Normalize(loaded.normalization)
        self.network = loaded.network.requires_grad_(False)
        self._fitting: set[ImageSize] = set()  # image sizes that the network is known to accept
        self._end: int | None = None  # depth at which a pass may end; set with the first image size
        self.train(False)

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
        return _layers(self.name, self.network, self.normalize(images), self.layers, self._end)

    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        """Shape of each layer for images of this size, without computing anything. Raises ShapeError."""
        shapes, self._end = _shapes(self.name, self.spec, self.layers, image)
        self._fitting.add(image)
        return shapes

    def describe(self) -> dict[str, Any]:
        """Everything about this network that determines its features, for manifests and fingerprints."""
        return {
            "name": self.name,
            "library": self.spec.library,
            "model": self.spec.model,
            "weights": self.weights.describe(),
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
        }

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever `mode` is."""
        return super().train(False)


def load_backbone(
    name: str, entry: BackboneParams, device: torch.device, layers: Sequence[str] | None = None
) -> Backbone:
    """Build the network of `backbones.<name>`, load its weights and move it to `device`.

    Args:
        layers: the layers that `forward` returns; None means those of the entry.

    Raises:
        ParamsError: unknown network, layer or tag. WeightsError: weights are missing or do not fit.
        DeviceError: the GPU's memory does not suffice.
    """
    spec, library = _spec(name, entry)
    network = _outline(library, spec)
    asked = entry.layers if layers is None else layers
    wanted = check_layers(name, asked, network.layer_names, module_paths(network))
    with torch.inference_mode(False):  # parameters created in inference mode would pass no gradient to the images
        backbone = Backbone(name, spec, wanted, load_network(name, entry, library, spec.model))
        with enough_memory("free it, or use --device cpu"):
            return backbone.to(device)


def feature_shapes(
    name: str, entry: BackboneParams, layers: Sequence[str], image: ImageSize
) -> dict[str, FeatureShape]:
    """Shape of one row of each layer, from the architecture alone, without reading weights or computing features.

    Raises:
        ParamsError: unknown network or layer. ShapeError: the network cannot take images of this size.
    """
    spec, _ = _spec(name, entry)
    return _shapes(name, spec, layers, image)[0]


def check_backbone(name: str, entry: BackboneParams, image: ImageSize) -> dict[str, FeatureShape]:
    """Check everything about an entry that needs no weights and no internet.

    Returns: the shape of each of its layers.

    Raises:
        ParamsError: unknown network, layer or tag. ShapeError: the network cannot take images of this size.
        WeightsError: none are published, the package is not installed, or the named file does not exist.
    """
    shapes = feature_shapes(name, entry, entry.layers, image)
    if entry.kind == "imagenet":
        published_weights(name, entry)
    elif entry.kind == "package":
        package_of(name, entry).locate()
    elif entry.kind == "path":
        weights_file(name, entry)
    return shapes


def published_weights(name: str, entry: BackboneParams) -> Published:
    """The downloadable weights that `weights: imagenet` means for this entry, even if the entry has other weights.

    Raises:
        ParamsError: unknown network or tag. WeightsError: the library publishes none.
    """
    spec, library = _named(name, entry)  # published weights are known without building the network
    return library.published(name, spec.model, entry.tag)


def package_of(name: str, entry: BackboneParams) -> Package:
    """The package that `weights: package` means for this entry.

    Raises:
        ParamsError: unknown network. WeightsError: no package contains its weights.
    """
    return packaged(name, _named(name, entry)[0].model)


def _spec(name: str, entry: BackboneParams) -> tuple[NetworkSpec, Library]:
    spec, library = _named(name, entry)
    library.check_maps(name, spec.model)
    return spec, library


def _named(name: str, entry: BackboneParams) -> tuple[NetworkSpec, Library]:
    spec = resolve(name, entry)
    library = LIBRARIES[spec.library]
    library.check(name, spec.model)
    return spec, library


def _outline(library: Library, spec: NetworkSpec) -> Network:
    """The structure of the network on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return library.build(spec.model).eval()


def _shapes(
    name: str, spec: NetworkSpec, layers: Sequence[str], image: ImageSize
) -> tuple[dict[str, FeatureShape], int | None]:
    """Shape of each layer, and the depth at which a pass may end; None if the whole network must run."""
    network = _outline(LIBRARIES[spec.library], spec)
    paths = module_paths(network)
    wanted = check_layers(name, layers, network.layer_names, paths)
    images = torch.empty(2, 3, image.height, image.width, device="meta")  # two, to recognise the batch dimension
    try:
        with torch.no_grad():
            end = _end(network, images, wanted)
            modules = not set(wanted) <= set(network.layer_names)
            found = _layers(name, network, images, wanted, None if modules else end)  # counts calls of the whole pass
    except PipelineError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:  # raised by the libraries for an impossible size
        raise ShapeError(
            f"{name} cannot take images of {image} pixels ({reason(error)}); change prepare.crop"
        ) from None
    return {layer: FeatureShape(*features.shape[1:]) for layer, features in found.items()}, end


def _end(network: Network, images: Tensor, layers: Sequence[str]) -> int | None:
    """The smallest depth at which all `layers` have run; None if no depth suffices and the whole network must run."""
    names, modules = network.layer_names, [layer for layer in layers if layer not in network.layer_names]
    first = max((names.index(layer) for layer in layers if layer in names), default=0)
    if not modules:
        return first

    def reached(depth: int) -> bool:
        with caught(network.model, modules) as outputs:
            network(images, [depth])
        return all(outputs.values())

    depth = bisect_left(range(len(names)), True, lo=first, key=reached)
    return depth if depth < len(names) else None


def _layers(name: str, network: Network, images: Tensor, layers: Sequence[str], end: int | None) -> dict[str, Tensor]:
    """Features of `layers`, in order, each (B, C, h, w), from one pass up to depth `end` (None: the whole network)."""
    names, modules = network.layer_names, [layer for layer in layers if layer not in network.layer_names]
    depths = sorted({names.index(layer) for layer in layers if layer in names} | {end or 0})
    with caught(network.model, modules) as outputs:
        maps = dict(zip(depths, network(images, depths, whole=end is None), strict=True))
    read_maps = {path: read(name, path, calls, images, network.model) for path, calls in outputs.items()}
    return {layer: read_maps[layer] if layer in read_maps else maps[names.index(layer)] for layer in layers}
