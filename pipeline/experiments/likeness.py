"""Is a photograph like those that the decoder was trained on? Asked of the image prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pipeline.loading.sampler import batched, spread
from pipeline.models.common.prior import BATCH, ImagePrior
from pipeline.stores.encoding import rgb
from pipeline.stores.prepared import PreparedData

KNOWN = 256  # photographs that another one is held against, at most


def surprise(prior: ImagePrior, images: Tensor) -> Tensor:
    """(x − m)ᵀ C⁻¹ (x − m) / dimensions of each image (B, 3, H, W): (B,). 1 is what the prior expects.

    Below it an image has less contrast and detail than photographs, above it colours or detail that they do not have.
    """
    whitened = prior.filter(torch.rsqrt)(images - prior.mean)
    return whitened.square().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Familiar:
    """The least and the largest surprise of the photographs that are known."""

    prior: ImagePrior
    low: float
    high: float

    @classmethod
    def of(cls, prior: ImagePrior, data: PreparedData) -> Self:
        """By the training and validation photographs of `data`."""
        rows = np.concatenate([data.rows("train"), data.rows("validation")])
        chosen = rows[spread(len(rows), KNOWN)]
        images = (rgb(torch.from_numpy(data.crops(part))) for part in batched(chosen, BATCH))
        known = torch.cat([surprise(prior, part) for part in images])
        return cls(prior, float(known.min()), float(known.max()))

    def unlike(self, image: Tensor) -> str | None:
        """Why an image (3, H, W) is unlike them; None where it is not."""
        value = float(surprise(self.prior, image[None].cpu())[0])
        if value > self.high:
            return f"it surprises the image prior by {value:.3g}, the training photographs by at most {self.high:.3g}"
        if value < self.low:
            return f"it surprises the image prior by {value:.3g}, the training photographs by at least {self.low:.3g}"
        return None
