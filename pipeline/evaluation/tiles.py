"""An image beside its reconstruction, as pictures."""

from __future__ import annotations

from torch import Tensor

from pipeline.evaluation.pictures import (
    Picture,
    enlarged,
    error_picture,
    similarity_picture,
    to_picture,
    with_scale,
)
from pipeline.metrics.similarity import ssim_map


def comparison_tiles(prediction: Tensor, target: Tensor) -> list[Picture]:
    """Original, reconstruction, error and local SSIM with its scale, of one image (3, H, W), enlarged."""
    similarity = ssim_map(prediction[None].double(), target[None].double())[0].float()
    tiles = [
        to_picture(target),
        to_picture(prediction),
        error_picture(prediction, target),
        similarity_picture(similarity, *target.shape[-2:]),
    ]
    *others, local = map(enlarged, tiles)
    return [*others, with_scale(local, ("1", "0.5", "≤ 0"))]
