"""Optimisers and learning-rate schedules, by the names params.yaml uses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.models.common.decoder import Decoder
from pipeline.models.common.fusion import Fusion

ADAM_SHARE = 0.1  # Adam's rate on the parameters that Muon does not update, as a fraction of the peak rate
READOUT_SHARE = 0.05  # rate of a warm-started read-out, which starts at its optimum, as a fraction of Adam's


class Muon(Optimizer):
    """Momentum whose update of each weight matrix is orthogonalised by Newton-Schulz (Jordan et al. 2024).

    A convolution's weight (O, I, k, k) counts as the matrix (O, I·k·k). The update is scaled by
    0.2·√max(rows, columns), so that its RMS matches Adam's and the two share a schedule (Liu et al.
    2025, eq. 4). Parameters with fewer than two dimensions belong to another optimiser.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, steps: int = 5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(buffer, alpha=group["momentum"])  # Nesterov
        matrix = direction.flatten(1)
        update = orthogonalise(matrix, group["steps"]) * (0.2 * math.sqrt(max(matrix.shape)))
        parameter.sub_(update.view_as(parameter), alpha=group["lr"])


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix (U Vᵀ of the SVD), approximately, by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan et al.: steepest at zero, singular values end in [0.7, 1.2]
    # by a power of two, exactly: squares of tiny gradients, which reach layers before a zero-started one, underflow
    matrix = torch.ldexp(matrix, -torch.frexp(matrix.abs().amax()).exponent.clamp_min(-126))
    x = matrix / matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny)  # zero stays zero
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


def build_optimizers(name: str, rate: float, body: nn.Module, readout: nn.Module | None) -> list[Optimizer]:
    """The optimisers of a decoder (`body`) and of the read-out from which it was warm-started.

    `body` may contain the parameters of both; those of `readout` train at READOUT_SHARE of the rate. Muon takes the
    matrices, except the last layer of a decoder, or of a fusion's corrections, with fewer outputs than inputs. After a
    warm start that layer starts at zero, and Muon's steps, equally long from the first one on, would lose the start
    again. (Jordan et al. 2024 leave every last layer to Adam; a wide one, the patches of patch_transformer, trains
    better with Muon.)
    """
    slow = {id(p) for p in readout.parameters()} if readout is not None else set()
    fast = [p for p in body.parameters() if id(p) not in slow and p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": fast, "lr": rate}]
    optimizers: list[Optimizer] = []
    if name == "muon":
        last = [m.output.weight for m in body.modules() if isinstance(m, Decoder)]
        last += [weight for m in body.modules() if isinstance(m, Fusion) for weight in m.zero_started()]
        narrow = {id(weight) for weight in last if len(weight) < weight[0].numel()}
        matrices = [p for p in fast if p.ndim >= 2 and id(p) not in narrow]
        optimizers += [Muon(matrices, lr=rate)] if matrices else []
        taken = {id(p) for p in matrices}
        groups = [{"params": [p for p in fast if id(p) not in taken], "lr": rate * ADAM_SHARE}]
    if readout is not None:
        share = READOUT_SHARE * (ADAM_SHARE if name == "muon" else 1.0)
        groups.append({"params": [p for p in readout.parameters() if p.requires_grad], "lr": rate * share})
    groups = [group for group in groups if group["params"]]
    if groups:
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        fused = all(p.device.type == "cuda" for group in groups for p in group["params"])
        optimizers.append(kind(groups, betas=(0.9, 0.999), fused=fused))
    return optimizers


def rate_factor(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The learning rate at `step` of `steps`, as a fraction of the peak. `warmup` is a fraction of all steps.

    `cosine`: linear warm-up, then half a cosine to zero. `one_cycle`: cosine up from 1/25 and down to
    1e-4/25 (Smith & Topin 2019). `constant`: warm-up only. The fitter handles `plateau`, once an epoch.
    """
    done, rise = step / max(steps, 1), max(warmup, 1e-9)
    if schedule == "one_cycle":
        if done < rise:
            return _cosine(1 / 25, 1.0, done / rise)
        return _cosine(1.0, 1e-4 / 25, (done - rise) / (1 - rise))
    ramp = min(1.0, (step + 1) / (steps * rise)) if warmup else 1.0
    if schedule == "cosine" and done > warmup:
        return ramp * _cosine(1.0, 0.0, (done - warmup) / (1 - warmup))
    return ramp


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
