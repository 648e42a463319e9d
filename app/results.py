"""What the pages Reconstruct, Tamper and Upper bound show of a photograph and a model, from the library's numbers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from app.html import data_uri, render
from app.laboratory import Laboratory, Loaded, Photograph
from pipeline.core.errors import DataError
from pipeline.core.sources import FeatureShape
from pipeline.evaluation.pictures import (
    ERROR_GAIN,
    error_picture,
    similarity_picture,
    to_picture,
    with_scale,
)
from pipeline.evaluation.report import ROWS
from pipeline.evaluation.run import training_colour
from pipeline.evaluation.scoring import References, baseline_scores
from pipeline.experiments.bound import FreshExamples, bound_steps, build_bound
from pipeline.experiments.likeness import Familiar
from pipeline.experiments.saved_models import command
from pipeline.experiments.tampering import Tampering, row_bytes, tampered
from pipeline.metrics.alexnet import lpips_available
from pipeline.metrics.scores import capped_psnr, score
from pipeline.metrics.similarity import ssim_map
from pipeline.metrics.table import all_metrics
from pipeline.models.common.prior import FILE as PRIOR_FILE
from pipeline.models.common.prior import load_prior
from pipeline.refinement.base import Refiner
from pipeline.stores.prepared import PreparedData

LABELS = {path[-1]: label for label, path in ROWS if path}
BATCH = 8  # photographs at a time while a refiner learns


@dataclass(frozen=True)
class Result:
    """A photograph seen through a model: images (3, H, W), numbers, and what is to be said about them.

    scores: by metric. floors: PSNR and SSIM by what they are of. unlike: why the photograph is unlike the training
    set, or None. notes: sentences.
    """

    photograph: Photograph
    model: Loaded
    original: Tensor
    reconstruction: Tensor
    scores: dict[str, float]
    floors: dict[str, dict[str, float]]
    unlike: str | None
    notes: list[str]
    command: str

    @property
    def caption(self) -> str:
        return f"{self.photograph.name} · {self.model.name}"

    def numbers(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values."""
        blueprint = self.model.description["blueprint"]
        return {
            "photograph": self.photograph.name,
            "prepared": self.photograph.note,
            "model": self.model.name,
            "sources": blueprint["sources"],
            "decoder": blueprint["decoder"],
            "weights": {name: each["weights"] for name, each in self.model.description["backbones"].items()},
            "scores": self.scores,
            "floors": self.floors,
            "unlike_the_training_set": self.unlike,
            "notes": self.notes,
            "command": self.command,
        }


def reconstruct(laboratory: Laboratory, photo: str, model: str) -> Result:
    """A photograph (see `Laboratory.photograph`) through a model, and everything that is known of the result.

    Raises:
        PipelineError: the photograph cannot be used, or the model cannot be loaded.
    """
    loaded = laboratory.loaded(model)
    encoder = loaded.encoder
    photograph = laboratory.photograph(photo, encoder.rules)
    with laboratory.computing:
        original = photograph.image.to(encoder.inverter.device)
        reconstruction = encoder.reconstruct(original)
        scores = {name: float(value[0]) for name, value in score(reconstruction, original, encoder.perceptual).items()}
    floors, notes = _floors(laboratory, loaded, original)
    unlike = None
    try:
        unlike = _familiar(laboratory, loaded).unlike(original[0])
    except DataError as error:
        notes.append(f"Whether the photograph is like the training set is not known: {error}.")
    if "lpips" not in scores:
        notes.append(f"No LPIPS: {lpips_available()}.")
    line = command(loaded.description, loaded.params, laboratory.params())
    return Result(photograph, loaded, original[0], reconstruction[0], scores, floors, unlike, notes, line)


def tiles(original: Tensor, reconstruction: Tensor) -> list[tuple[str, str]]:
    """Captions and pictures, as text, of images (3, H, W): pixel for pixel."""
    similarity = ssim_map(reconstruction[None].double(), original[None].double())[0].float()
    local = similarity_picture(similarity, *original.shape[-2:])
    pictures = (
        ("original", to_picture(original)),
        ("reconstruction", to_picture(reconstruction)),
        (f"error × {ERROR_GAIN}", error_picture(reconstruction, original)),
        ("local SSIM", with_scale(local, ("1", "0.5", "≤ 0"))),
    )
    return [(caption, data_uri(picture)) for caption, picture in pictures]


def page(result: Result) -> str:
    """A result as HTML."""
    metrics = all_metrics()
    numbers = json.dumps(result.numbers(), indent=2, ensure_ascii=False)
    return render(
        "result.html",
        result=result,
        tiles=tiles(result.original, result.reconstruction),
        scores={name: (metrics[name].title, metrics[name].shown(value)) for name, value in result.scores.items()},
        floors=[
            (label, *(metrics[name].shown(each[name]) for name in ("psnr", "ssim")))
            for label, each in result.floors.items()
        ],
        numbers=f"data:application/json;base64,{base64.b64encode(numbers.encode()).decode('ascii')}",
    )


def pair(result: Result) -> tuple[str, str]:
    """Original and reconstruction, as text."""
    return data_uri(to_picture(result.original)), data_uri(to_picture(result.reconstruction))


def tamper(laboratory: Laboratory, photo: str, model: str, change: Tampering) -> dict[str, Any]:
    """A photograph through changed features: `psnr`, `ssim`, `bits_per_pixel`, the `original`, the `reconstruction`.

    The last two are images (3, H, W). Raises PipelineError, as `reconstruct`, and for a change that cannot be made.
    """
    loaded = laboratory.loaded(model)
    photograph = laboratory.photograph(photo, loaded.encoder.rules)
    with laboratory.computing:
        original = photograph.image.to(loaded.encoder.inverter.device)
        found = tampered(loaded.encoder, original, change)
        scores = score(found.image, original)
    return {
        "photograph": photograph.name,
        "model": model,
        "channels": [shape[0] for shape in loaded.description["blueprint"]["shapes"]],
        "bits_per_pixel": found.bits_per_pixel,
        "psnr": float(scores["psnr"][0]),
        "ssim": float(scores["ssim"][0]),
        "original": original[0],
        "reconstruction": found.image[0],
    }


@dataclass(frozen=True)
class Bound:
    """Where a refinement stands: `image` (3, H, W), and a row for each evaluation so far."""

    original: Tensor
    image: Tensor
    curve: pd.DataFrame  # evaluation, psnr, feature_error


def refine(laboratory: Laboratory, photo: str, model: str, refiner: str, budget: int) -> Iterator[Bound]:
    """A photograph's image refined through the known network, one step at a time; whoever stops asking stops it.

    Raises:
        PipelineError: as `reconstruct`; the refiner does not work here, or lacks the image prior.
    """
    loaded = laboratory.loaded(model)
    photograph = laboratory.photograph(photo, loaded.encoder.rules)
    with laboratory.computing:
        original = photograph.image.to(loaded.encoder.inverter.device)
        steps = bound_steps(loaded.encoder, _learned(laboratory, loaded, refiner, budget), original)
    rows: list[dict[str, float]] = []
    while True:
        with laboratory.computing:  # of one step: others may compute in between
            step = next(steps, None)
            if step is None:
                return
            images = step.images.detach()
            psnr = float(capped_psnr(images, original)[0])
        rows.append({"evaluation": len(rows), "psnr": psnr, "feature_error": float(step.feature_error[0])})
        yield Bound(original[0], images[0], pd.DataFrame(rows))


def _floors(laboratory: Laboratory, loaded: Loaded, original: Tensor) -> tuple[dict[str, dict[str, float]], list[str]]:
    try:
        colour = _colour(laboratory.data())
    except DataError as error:
        return {}, [f"No floors: {error}."]
    encoder, shapes = loaded.encoder, loaded.description["blueprint"]["shapes"]
    size = sum(row_bytes(FeatureShape(*shape), dtype) for shape, dtype in zip(shapes, encoder.stored, strict=True))
    crops = np.ascontiguousarray(to_picture(original[0])[None])
    with laboratory.computing:
        found = baseline_scores(original, crops, References(colour, encoder.inverter.grid, size), {})
    names = [name.removesuffix("_psnr") for name in found if name.endswith("_psnr")]
    return {
        LABELS[name]: {metric: float(found[f"{name}_{metric}"][0]) for metric in ("psnr", "ssim")} for name in names
    }, []


@lru_cache(maxsize=4)
def _colour(data: PreparedData) -> Tensor:
    return training_colour(data)


def _familiar(laboratory: Laboratory, loaded: Loaded) -> Familiar:
    """Raises DataError: no photographs are prepared, or there is no prior of them."""
    data = laboratory.data()
    folder = _prior_folder(laboratory, loaded)
    file = folder / PRIOR_FILE
    return _familiar_by(data, folder, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache(maxsize=4)
def _familiar_by(data: PreparedData, folder: Path, _written: int) -> Familiar:
    return Familiar.of(load_prior(folder, data), data)


def _prior_folder(laboratory: Laboratory, loaded: Loaded) -> Path:
    """The model's own prior where it was fitted on the photographs that are here, else that of the checkout."""
    same = loaded.description.get("data") == laboratory.data().fingerprint
    return loaded.folder if same and (loaded.folder / PRIOR_FILE).is_file() else laboratory.paths.prior


def _learned(laboratory: Laboratory, loaded: Loaded, name: str, budget: int) -> Refiner:
    refiner = build_bound(loaded.encoder, loaded.params, name, budget)
    data, folder = laboratory.data(), _prior_folder(laboratory, loaded)
    refiner.learn(FreshExamples(data, loaded.encoder, partial(load_prior, folder, data), BATCH))
    return refiner


def live(laboratory: Laboratory, photo: str, model: str) -> dict[str, str]:
    """A frame through a model, with its PSNR and nothing else: `picture` and `psnr`, as text."""
    loaded = laboratory.loaded(model)
    frame = laboratory.photograph(photo, loaded.encoder.rules)
    with laboratory.computing:
        original = frame.image.to(loaded.encoder.inverter.device)
        reconstruction = loaded.encoder.reconstruct(original)
        psnr = float(capped_psnr(reconstruction, original)[0])
    return {"picture": data_uri(to_picture(reconstruction[0])), "psnr": all_metrics()["psnr"].shown(psnr)}


def tampered_page(found: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    """What `tamper` found as HTML; and original and image, as text."""
    metrics = all_metrics()
    shown = tiles(found["original"], found["reconstruction"])
    numbers = [
        ("bits per pixel", f"{found['bits_per_pixel']:.4g}"),
        *((metrics[name].title, metrics[name].shown(found[name])) for name in ("psnr", "ssim")),
        ("channels", " + ".join(map(str, found["channels"]))),
    ]
    html = render("tampered.html", found=found, numbers=numbers, tiles=shown[2:])
    return html, (shown[0][1], shown[1][1])


def bound_page(step: Bound) -> tuple[str, tuple[str, str]]:
    """Where a refinement stands as HTML; and original and image, as text."""
    before, now = step.curve.iloc[0], step.curve.iloc[-1]
    shown = all_metrics()["psnr"].shown
    html = render(
        "bound.html",
        evaluation=int(now["evaluation"]),
        before=shown(before["psnr"]),
        now=shown(now["psnr"]),
        best=shown(step.curve["psnr"].max()),
    )
    return html, (data_uri(to_picture(step.original)), data_uri(to_picture(step.image)))


def loaded_first(laboratory: Laboratory) -> None:
    """Load what the first visitor sees: the first model, floors and prior, and one photograph through it."""
    models, photographs = laboratory.models(), laboratory.photographs()
    if models and photographs:
        page(reconstruct(laboratory, photographs[0], models[0]))
