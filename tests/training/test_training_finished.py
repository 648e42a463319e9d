"""A training that was finished is not run again, unless something of it is gone or another is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_experiment import Experiment, experiment, retrain

pytestmark = pytest.mark.slow

FINISHED = "nothing left to do"


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("decoder", ["linear", "transposed_conv"])
def test_given_again_it_says_so_and_leaves_everything(
    made: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], decoder: str
) -> None:
    settings = (f"decoder={decoder}", "protocols.fast.epochs=1")
    retrain(made, tmp_path, *settings)
    assert FINISHED not in capsys.readouterr().err
    before = contents(tmp_path)
    retrain(made, tmp_path, *settings)
    said = capsys.readouterr().err
    assert FINISHED in said
    assert "delete it to train again" in said
    assert contents(tmp_path) == before
    retrain(made, tmp_path, *settings, "train.resident=never")  # of no matter to the model
    assert FINISHED in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["models", "models/model.json", "metrics/training.csv"])
def test_what_is_gone_is_made_again(
    made: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    retrain(made, tmp_path, "decoder=linear")
    before = {name: content for name, (content, _) in contents(tmp_path / "models").items()}
    place = tmp_path / gone
    place.rename(tmp_path / "away")
    retrain(made, tmp_path, "decoder=linear")
    assert FINISHED not in capsys.readouterr().err
    assert {name: content for name, (content, _) in contents(tmp_path / "models").items()} == before
    assert place.exists()


def test_a_damaged_model_and_another_training_are_run(
    made: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retrain(made, tmp_path, "decoder=linear")
    weights = tmp_path / "models/model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    retrain(made, tmp_path, "decoder=linear")
    assert weights.read_bytes() == good
    retrain(made, tmp_path, "decoder=linear", "decoders.linear.kernel=1")
    retrain(made, tmp_path, "decoder=linear")  # the model of another stands there now
    assert FINISHED not in capsys.readouterr().err
    assert weights.read_bytes() == good
