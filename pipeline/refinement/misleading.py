"""The check, on validation images, whether refinement lowers PSNR while the features come nearer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pipeline.loading.loader import Batch
from pipeline.metrics.scores import capped_psnr
from pipeline.refinement.base import Step

VALIDATION_IMAGES = 8  # refined before the test images

Attempt = Callable[[Batch], tuple[Tensor, Iterable[Step]]]  # a batch → its start images, and the steps of a refiner


def misleading(name: str, section: str, advice: str, batches: Iterable[Batch], attempt: Attempt) -> str | None:
    """A warning if PSNR falls although the feature error falls, both as means over all images of `batches`; else None.

    Args:
        name: the refiner's name. section: the section of params.yaml that chose it. advice: `Refiner.advice`.
        attempt: refines a batch.
    """
    found = []  # of each batch (4, B): PSNR of the start and of the last images, feature error of the first and last
    for batch in batches:
        start, steps = attempt(batch)
        coming = iter(steps)
        first_step = last_step = next(coming)
        for last_step in coming:  # noqa: B007  (steps in between are not kept)
            pass
        scores = [capped_psnr(images, batch.targets) for images in (start, last_step.images)]
        found.append(torch.stack([*scores, first_step.feature_error.double(), last_step.feature_error.double()]))
    if not found:
        return None
    before, after, first, last = torch.cat(found, dim=1).mean(dim=1).tolist()
    if after >= before or last >= first:
        return None
    prefix = "evaluate.refine_" if section == "evaluate" else f"{section}."
    return (
        f"refining by {name} lowers PSNR from {before:.2f} to {after:.2f} dB on {sum(each.shape[1] for each in found)} "
        f"validation images while the feature error falls from {first:.3g} to {last:.3g}: "
        + advice.format(refine=f"{section}.refine", budget=f"{prefix}budget")
    )
