"""The machine a run happens on: seeds, device, precision, and the record of both."""

from __future__ import annotations

import os
import platform
import random
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from pipeline.errors import TrainingError

RECORDED_PACKAGES = ("torch", "torchvision", "timm", "zarr", "h5py", "numpy", "pillow", "lpips")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), and ask torch for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA when there is a GPU, else the CPU; any other name is used as it is or refused.

    Raises:
        TrainingError: a GPU was demanded and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"--device {name}: no CUDA device is visible here; use --device auto or cpu")
    return device


def provenance(device: torch.device) -> dict[str, Any]:
    """Where numbers come from: library versions, Python, device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "packages": {package: version(package) for package in RECORDED_PACKAGES},
    }

