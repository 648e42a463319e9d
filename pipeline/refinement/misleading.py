"""Whether nearer features mean worse images: the one check of it, on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pipeline.loading.loader import Batch
from pipeline.metrics.scores import capped_psnr
from pipeline.refinement.base import Step

VALIDATION_IMAGES = 8  # refined beforehand, to see whether nearer features mean nearer images

Attempt = Callable[[Batch], tuple[Tensor, Iterable[Step]]]  # a batch → its start images, and the steps of a refiner


def misleading(name: str, section: str, advice: str, batches: Iterable[Batch], attempt: Attempt) -> str | None:
    """A sentence when PSNR falls although the features come nearer; both are means over all images of `batches`.

    Args:
        name: of the refiner. section: of params.yaml that chose it. advice: `Refiner.advice`.
    """
    found = [torch.stack(list(_before_and_after(batch, attempt))) for batch in batches]
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


def _before_and_after(batch: Batch, attempt: Attempt) -> Iterator[Tensor]:
    """PSNR of the start and of the last images, feature error of the first and of the last step, (B,) each."""
    start, steps = attempt(batch)
    coming = iter(steps)
    first = last = next(coming)
    for last in coming:  # noqa: B007  (what is between is not kept)
        pass
    yield capped_psnr(start, batch.targets)
    yield capped_psnr(last.images, batch.targets)
    yield first.feature_error.double()
    yield last.feature_error.double()
