"""Lightning Fabric for a run on one device: its device and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def build_fabric(precision: str, device: torch.device) -> Fabric:
    """Fabric for one process on `device`. `precision` is `train.precision`: auto, fp32 or bf16."""
    from lightning_fabric import Fabric  # as slow to import as torch, and a read-out alone does not need it

    return Fabric(
        accelerator=device.type, devices=fabric_devices(device), precision=fabric_precision(precision, device)
    )


def fabric_devices(device: torch.device) -> list[int] | int:
    """Fabric's argument `devices`: a list of GPU indices, or a number of processes on the CPU."""
    return [device.index or 0] if device.type == "cuda" else 1


def fabric_precision(name: str, device: torch.device) -> Literal["bf16-mixed", "32-true"]:
    """`auto`: bf16 autocast on CUDA, float32 on the CPU."""
    mixed = name == "bf16" or (name == "auto" and device.type == "cuda")
    return "bf16-mixed" if mixed else "32-true"
