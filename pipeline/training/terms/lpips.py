"""Learned perceptual distance (LPIPS)."""

from torch import Tensor

from pipeline.core.params import Params
from pipeline.metrics.similarity import load_lpips
from pipeline.training.losses import TERMS, WeightedTerm


@TERMS.register("lpips")
class LpipsTerm(WeightedTerm):
    """Mean distance over a batch. Raises WeightsError: AlexNet's weights are missing or damaged."""

    def __init__(self, params: Params | None) -> None:
        super().__init__(params)
        self.distance = load_lpips()
        self.sha256 = self.distance.sha256

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.distance(prediction, target).mean()
