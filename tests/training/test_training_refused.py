"""What `train` refuses before it begins: work that another process is at, and batches that cannot be normalised."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_experiment import Experiment, experiment, retrain

from pipeline.core.errors import ShapeError
from pipeline.core.params import Params, load_params
from pipeline.core.progress import counted
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.loading.loader import Batch
from pipeline.loading.sampler import SplitFeed
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.training import run as training
from pipeline.training.run import check_batches

ROOT = Path(__file__).parents[2]
TRY = """
import sys
from pathlib import Path
from pipeline.core.locks import locked
with locked(Path(sys.argv[1]), "training the same model"):
    pass
"""


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


def test_two_trainings_of_the_same_model_do_not_share_a_folder(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    usual = SplitFeed.training

    def watched(self: SplitFeed, epoch: int) -> Iterator[Batch]:
        (work,) = (tmp_path / "work/train").iterdir()
        command, environment = [sys.executable, "-c", TRY, str(work)], {**os.environ, "PYTHONPATH": str(ROOT)}
        said.append(subprocess.run(command, env=environment, capture_output=True, text=True).stderr)
        assert f"another process is training the same model in {work}; wait until it ends" in said[-1]
        return usual(self, epoch)

    monkeypatch.setattr(SplitFeed, "training", watched)
    retrain(made, tmp_path, "train.warm_start=none", "protocols.fast.epochs=1")
    assert len(said) == 1
    assert not list((tmp_path / "work/train").iterdir())


def _tiny(decoder: str, edge: int, *overrides: str) -> tuple[Inverter, Params]:
    """A decoder of features with `edge`² positions, of images of 32 pixels."""
    chosen = ("backbone=vgg16", "layer=block5", f"decoder={decoder}", "prepare.crop=32", *overrides)
    params = load_params(ROOT / "params.yaml", chosen)
    shapes = {source: FeatureShape(16, edge, edge) for source in params.sources}
    return Inverter(Blueprint.of(params, shapes, ImageSize(32, 32))), params


@pytest.mark.parametrize(("images", "batch"), [(9, 4), (1, 4), (8, 1)])
def test_a_batch_of_one_position_is_refused_before_anything_is_computed(images: int, batch: int) -> None:
    inverter, params = _tiny("residual", 1, f"protocols.fast.batch_size={batch}")
    before = {name: tensor.clone() for name, tensor in inverter.state_dict().items()}
    with pytest.raises(ShapeError) as caught:
        check_batches(inverter, params, images)
    assert str(caught.value).startswith(
        f"{counted(images, 'training image')} in batches of {batch} leave a batch of one, on which decoder residual "
        "cannot be trained here (Expected more than 1 value per channel"
    )
    assert str(caught.value).endswith("; change protocols.fast.batch_size")
    assert all(torch.equal(tensor, before[name]) for name, tensor in inverter.state_dict().items())


@pytest.mark.parametrize(
    ("decoder", "edge", "images"), [("residual", 1, 8), ("residual", 1, 10), ("residual", 2, 9), ("linear", 1, 9)]
)
def test_other_batches_are_not(decoder: str, edge: int, images: int) -> None:
    check_batches(*_tiny(decoder, edge), images)


def test_train_looks_at_its_batches_first(made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(inverter: Inverter, params: Params, images: int) -> None:
        raise ShapeError(f"{images} images")

    monkeypatch.setattr(training, "check_batches", refuse)
    with pytest.raises(ShapeError, match=f"^{len(set(made.data().image[made.data().rows('train')]))} images$"):
        retrain(made, tmp_path)
    assert not list(tmp_path.rglob("linear.pt"))
