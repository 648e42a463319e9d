"""The machine a run happens on: seeds, device, precision, and the record of both."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import DeviceError

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
        DeviceError: an unknown name, or a GPU was demanded and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise DeviceError(f"--device {name} is unknown; use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        found = f"{count} CUDA devices are" if count else "no CUDA device is"
        raise DeviceError(f"--device {name}: {found} visible here; use --device auto or cpu")
    return torch.device(name)


def source_digest() -> str:
    """SHA-256 over the library's source: what unfinished work and scores were made with, committed or not."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def provenance(device: torch.device) -> dict[str, Any]:
    """Where numbers come from: library versions, Python, device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "packages": {package: version(package) for package in RECORDED_PACKAGES},
    }
