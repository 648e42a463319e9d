"""What `train` refuses before it begins: work that another process is at, and batches that cannot be normalised."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_experiment import Experiment, experiment, retrain

from pipeline.cached import Batch
from pipeline.feed import SplitFeed

ROOT = Path(__file__).parents[1]
TRY = """
import sys
from pathlib import Path
from pipeline.lock import locked
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

    def training(self: SplitFeed, epoch: int) -> Iterator[Batch]:
        (work,) = (tmp_path / "work/train").iterdir()
        command, environment = [sys.executable, "-c", TRY, str(work)], {**os.environ, "PYTHONPATH": str(ROOT)}
        said.append(subprocess.run(command, env=environment, capture_output=True, text=True).stderr)
        assert f"another process is training the same model in {work}; wait until it ends" in said[-1]
        return usual(self, epoch)

    monkeypatch.setattr(SplitFeed, "training", training)
    retrain(made, tmp_path, "train.warm_start=none", "protocols.fast.epochs=1")
    assert len(said) == 1
    assert not list((tmp_path / "work/train").iterdir())
