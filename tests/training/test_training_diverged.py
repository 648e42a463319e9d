"""A training loss that is not finite: what is said, and what is kept."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from messages import says
from safetensors.torch import load_file
from small_experiment import Experiment, experiment, retrain, validation_scores

from pipeline.core.errors import TrainingError
from pipeline.loading.loader import Batch
from pipeline.loading.sampler import SplitFeed

pytestmark = pytest.mark.slow

# a linear start that leaves something to be learned, so that the first epoch is better than it
SETTINGS = (
    "decoders.linear.kernel=1",
    *(
        f"protocols.fast.{each}"
        for each in ("epochs=3", "learning_rate=1e-3", "schedule=constant", "warmup=0.0", "batch_size=1")
    ),
)


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


def _spoil(monkeypatch: pytest.MonkeyPatch, from_epoch: int) -> None:
    """Targets of the second batch of epoch `from_epoch` (from 0) and of all later ones are not numbers."""
    usual = SplitFeed.training

    def training(self: SplitFeed, epoch: int) -> Iterator[Batch]:
        for step, batch in enumerate(usual(self, epoch)):
            if (epoch, step) >= (from_epoch, 1):
                batch.targets.fill_(float("nan"))
            yield batch

    monkeypatch.setattr(SplitFeed, "training", training)


def test_in_the_first_epoch_nothing_is_claimed_to_be_kept(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, from_epoch=0)
    with pytest.raises(TrainingError) as caught:
        retrain(made, tmp_path, *SETTINGS)
    says(
        caught.value,
        "training loss became nan",
        "epoch 1, step 2",
        "learning rate 0.001",
        "protocols.*.learning_rate",
        "protocols.*.gradient_clip",
    )
    assert not list(tmp_path.rglob("model.json"))
    assert not (tmp_path / "metrics/training.csv").exists()


@pytest.mark.parametrize("warm_start", ["none", "linear"])
def test_in_the_second_epoch_the_first_ones_model_is_where_the_message_says(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_start: str
) -> None:
    _spoil(monkeypatch, from_epoch=1)
    with pytest.raises(TrainingError) as caught:
        retrain(made, tmp_path, *SETTINGS, f"train.warm_start={warm_start}")
    (work,) = (tmp_path / "work/train").iterdir()
    says(
        caught.value,
        "training loss became nan",
        "epoch 2, step 2",
        "learning rate 0.001",
        "protocols.*.gradient_clip",
        "the model of epoch 1",
        work / "best",
    )
    state = torch.load(work / "state.pt", weights_only=True)  # as the first epoch left it
    saved = load_file(work / "best/model.safetensors")
    assert saved.keys() == state["module"].keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state["module"].items())
    (epoch,) = state["progress"]["history"]
    (row,) = pd.read_csv(tmp_path / "metrics/training.csv").to_dict("records")
    assert row["validation_total"] == pytest.approx(epoch["validation_total"], rel=1e-5)
    assert (tmp_path / "metrics/training_speed.csv").is_file()
    assert validation_scores(made, work / "best")["total"] == pytest.approx(epoch["validation_total"], rel=1e-5)
    assert (work / "best/linear/model.json").is_file() == (warm_start == "linear")
    assert not (tmp_path / "models").exists()
