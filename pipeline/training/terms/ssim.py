"""One minus the structural similarity."""

from torch import Tensor

from pipeline.metrics.similarity import ssim
from pipeline.training.losses import TERMS


def dissimilarity(prediction: Tensor, target: Tensor) -> Tensor:
    """1 − mean SSIM of a batch (B, 3, H, W), a scalar."""
    return 1 - ssim(prediction, target).mean()


TERMS.register("ssim")(lambda: dissimilarity)
