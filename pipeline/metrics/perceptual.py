"""The distance in layers of a frozen network that the loss term and the metric `features` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ParamsError
from pipeline.core.params import DistanceParams, Params
from pipeline.core.runtime import computing_in
from pipeline.core.sources import ImageSize

if TYPE_CHECKING:
    from pipeline.backbones.backbone import Backbone

FAINT = 0.01  # smallest variance of a channel, as a fraction of the layer's mean variance


class FeatureDistance(nn.Module):
    """Mean over layers of the mean squared difference of features, each channel divided by its standard deviation.

    J. Johnson, A. Alahi and L. Fei-Fei, Perceptual losses for real-time style transfer and super-resolution, ECCV 2016,
    eq. 2, except for this division: without it, layers with large features would dominate; with it, two unrelated
    photographs have a distance of about 2 in any layer of any network. The standard deviations are taken over the parts
    of one photograph of scikit-image, so they are equal in all experiments.

    Raises:
        ParamsError: a layer is constant on that photograph, or its features are not finite.
    """

    def __init__(self, backbone: Backbone, image: ImageSize) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.no_grad(), computing_in("fp32", torch.device("cpu")):
            measured = backbone(_photographs(image))
        for number, (layer, features) in enumerate(measured.items()):
            variance = features.double().var((0, 2, 3), correction=0)
            if not (variance.isfinite().all() and variance.any()):
                raise ParamsError(
                    f"{backbone.name}.{layer} tells no photographs apart, so features cannot be a distance in it; "
                    "leave it out of perceptual.loss.layers and perceptual.metric.layers"
                )
            deviation = variance.clamp(min=FAINT * variance.mean()).sqrt()
            # the inverse of the deviation, because that of a variance of 2⁻⁸⁰ is near float32's largest number
            self.register_buffer(f"inverse_{number}", deviation.reciprocal().float()[:, None, None])
        self.train(False)

    def describe(self) -> dict[str, Any]:
        """The network with its weights, and the layers, as plain values."""
        return {"backbone": self.backbone.describe(), "layers": list(self.backbone.layers)}

    def forward(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of each pair, (B,) float32, 0 for equal images. Both are (B, 3, H, W) RGB in [0, 1]."""
        with computing_in("fp32", prediction.device):
            with torch.no_grad():
                wanted = self.backbone(target.float())
            found = self.backbone(prediction.float())
            layers = [
                ((found[layer] - wanted[layer]) * self.get_buffer(f"inverse_{number}")).square().mean((1, 2, 3))
                for number, layer in enumerate(self.backbone.layers)
            ]
            return torch.stack(layers).mean(0)


def load_distance(chosen: DistanceParams, params: Params) -> FeatureDistance:
    """The distance that `chosen` names, on the CPU.

    Raises:
        WeightsError: the network's weights are missing or damaged.
        ParamsError: the network has no such layer, or the layer is constant (see `FeatureDistance`).
    """
    from pipeline.backbones.backbone import load_backbone  # slow to import, and needed only here

    network = params.backbone_params(chosen.backbone)
    backbone = load_backbone(chosen.backbone, network, torch.device("cpu"), chosen.layers)
    return FeatureDistance(backbone, ImageSize(params.prepare.crop, params.prepare.crop))


def _photographs(image: ImageSize) -> Tensor:
    """scikit-image's astronaut, whole and in sixteen parts, (17, 3, H, W) in [0, 1]."""
    from skimage.data import astronaut  # slow to import, and needed only here

    whole = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float() / 255  # 512×512
    parts = whole.unflatten(3, (4, 128)).unflatten(2, (4, 128)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    size = (image.height, image.width)
    resized = [F.interpolate(each, size, mode="bicubic", antialias=True) for each in (whole, parts)]
    return torch.cat(resized).clamp(0, 1)
