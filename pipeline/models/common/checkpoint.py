"""Saved models: model.safetensors holds the weights, model.json everything needed to rebuild the module."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.core.errors import CheckpointError, StoreError
from pipeline.core.files import write_whole
from pipeline.core.former import recorded_first_stage
from pipeline.core.paths import LEARNED, LINEAR_FOLDER

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_model(directory: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write both files through temporary names. The description is last: without it there is no model.

    Raises:
        CheckpointError: a weight is not finite.
        OSError: the disk is full, or cannot be written.
    """
    require_finite(directory, tensors)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DESCRIPTION).unlink(missing_ok=True)  # new weights must never have an old description
    # as bytes, because safetensors' own writing reports a full disk as an error of its format
    contents = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_whole(directory / WEIGHTS, contents)
    write_whole(directory / DESCRIPTION, (json.dumps(description, indent=2, sort_keys=True) + "\n").encode())


def require_finite(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless all `tensors` are finite; the message names `directory`, their destination."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"no model is saved in {directory}: {name} holds numbers that are not finite, because features or "
                "photographs are not; extract again (python -m stages extract), with extract.precision: fp32"
            )


def require_first_stage(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise StoreError unless `folder` holds the read-out and the refiner of the first stage described by `facts`."""
    remedy = "run `python -m stages refine`"
    for path in (folder / LINEAR_FOLDER / WEIGHTS, folder / LINEAR_FOLDER / DESCRIPTION, folder / LEARNED):
        if not path.is_file():
            raise StoreError(f"{path} is missing; {remedy}")
    found = load_model(folder / LINEAR_FOLDER)[1].get("first_stage", {})
    if recorded_first_stage(found) != facts:
        raise StoreError(f"{folder / LINEAR_FOLDER} is of another first stage than the images beside it; {remedy}")


def copy_first_stage(folder: Path, models: Path) -> None:
    """Copy the first stage's read-out and refiner from `folder` to `models`, for photographs that are in no store."""
    shutil.copytree(folder / LINEAR_FOLDER, models / LINEAR_FOLDER)
    shutil.copyfile(folder / LEARNED, models / LEARNED)


def load_model(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description of the model in `directory`.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for name in (DESCRIPTION, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing; train first: python -m stages train")
    try:
        description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS)
        if not (isinstance(description, dict) and isinstance(description.get("blueprint"), dict)):
            raise ValueError(f"{DESCRIPTION} describes no model")
    except (ValueError, SafetensorError) as error:
        remedy = "train again: python -m stages train"
        raise CheckpointError(f"the model in {directory} is damaged ({error}); {remedy}") from None
    return tensors, description
