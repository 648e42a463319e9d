"""Lightning Fabric for a run on one device: which device, and which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def build_fabric(precision: str, device: torch.device) -> Fabric:
    """For one process on `device`. `precision` is `train.precision`: auto, fp32 or bf16."""
    from lightning_fabric import Fabric  # as slow to import as torch, and the read-out alone does without

    return Fabric(
        accelerator=device.type, devices=fabric_devices(device), precision=fabric_precision(precision, device)
    )


def fabric_devices(device: torch.device) -> list[int] | int:
    """What Fabric calls this device: a list holds the numbers of GPUs, a plain number counts processes."""
    return [device.index or 0] if device.type == "cuda" else 1


def fabric_precision(name: str, device: torch.device) -> Literal["bf16-mixed", "32-true"]:
    """`auto`: bf16 autocast on CUDA, float32 on the CPU."""
    mixed = name == "bf16" or (name == "auto" and device.type == "cuda")
    return "bf16-mixed" if mixed else "32-true"
