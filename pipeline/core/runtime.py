"""Seeds, device and precision of a run, and the record of the machine it ran on."""

from __future__ import annotations

import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import DeviceError

LIBRARY = Path(__file__).parents[1]
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "zarr", "h5py", "numpy", "pillow", "lpips")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NO_WORKSPACE = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "find an engine to execute this computation",
)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), and ask torch for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # nothing here is read before it is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA if there is a GPU, else the CPU; `cpu`, `cuda` and `cuda:N` choose explicitly.

    Raises:
        DeviceError: the name is unknown, or this machine has no such GPU.
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


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Inside the block, torch computes in `precision`: fp32 (always without TF32), or bf16 or fp16 by autocast.

    No other place creates an autocast context, except Fabric, which trains the decoder.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False  # fp32 means fp32 on the GPU as well
    try:
        with torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision != "fp32"):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def memory_ran_out(error: RuntimeError) -> bool:
    """Whether `error` means out of memory: torch's own error, or a library that found no memory for its workspace."""
    if isinstance(error, DeviceError):  # its message quotes the library's
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_WORKSPACE)


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Raises DeviceError with the `remedy` when the GPU's memory runs out inside the block."""
    try:
        yield
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        raise DeviceError(f"the GPU's memory ran out ({str(error).partition('. ')[0]}); {remedy}") from None


def source_commit(library: Path = LIBRARY) -> str | None:
    """The last Git commit that changed the library, followed by " and edits" when files differ from that commit.

    HEAD would not do: an unrelated commit (of results or docs) changes no number, but would change the output for DVC.
    None outside a repository.
    """
    commit = _git(library, "log", "-1", "--format=%H", "--", ".")
    if not commit:
        return None
    return f"{commit} and edits" if _git(library, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *arguments: str) -> str:
    """Git's output, or "" without Git or outside a repository."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True).stdout.strip()


def provenance(device: torch.device) -> dict[str, Any]:
    """The origin of numbers: versions of Python and libraries, device, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "packages": {package: version(package) for package in RECORDED_PACKAGES},
    }
