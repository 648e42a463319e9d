"""Photographs for `reconstruct`, and a small trained decoder to see them through."""

from pathlib import Path

from PIL import Image
from skimage import data
from small_experiment import CPU, Experiment, experiment

from pipeline.core.params import Params
from pipeline.experiments.reconstruction import Result, reconstruct


def made() -> Experiment:
    return experiment("linear")


def three_photographs(place: Path) -> Path:
    """A folder with two of them, and one more deeper down."""
    folder = place / "photographs"
    (folder / "deeper").mkdir(parents=True)
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    Image.fromarray(data.coffee()).save(folder / "tasse à café.png")
    Image.fromarray(data.rocket()).save(folder / "deeper" / "cat.jpg", quality=95)
    return folder


def run(*inputs: object, output: Path, params: Params | None = None) -> Result:
    return reconstruct([str(each) for each in inputs], made().models, params or made().params, output, CPU)
