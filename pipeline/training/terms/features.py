"""Distance in layers of the frozen network that `perceptual.loss` of params.yaml names (Johnson et al. 2016)."""

from torch import Tensor

from pipeline.core.params import Params
from pipeline.metrics.perceptual import load_distance
from pipeline.training.losses import TERMS, WeightedTerm


@TERMS.register("features")
class FeaturesTerm(WeightedTerm):
    """Mean distance over a batch. Raises WeightsError: the network's weights are missing or damaged."""

    def __init__(self, params: Params | None) -> None:
        super().__init__(params)
        assert params is not None, "the term `features` needs the params that name its network"
        self.distance = load_distance(params.perceptual.loss, params)
        self.network = self.distance.describe()
        self.sha256 = self.network["backbone"]["weights"]["sha256"]

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.distance(prediction, target).mean()
