"""What is saved while a module is fitted: a damaged state, and the report after each epoch."""

from pathlib import Path

import pytest
import torch
from toy_training import ToyFeed, toy_fitter

from pipeline.core.errors import TrainingError
from pipeline.training.fitter import load_state, save_state

CPU = torch.device("cpu")


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state({"weight": torch.arange(5.0), "epoch": 3}, tmp_path / "deep/er/state.pt")
    state = load_state(tmp_path / "deep/er/state.pt", CPU)
    assert (state["weight"].tolist(), state["epoch"]) == ([0, 1, 2, 3, 4], 3)


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros at the end", "other bytes", "no state"])
def test_a_damaged_state_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        toy_fitter().run(ToyFeed(fail_in_epoch=2), path, "toy")
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:half],
            "zeros at the end": content[:half] + bytes(len(content) - half),
            "other bytes": content[:half]
            + bytes(255 - byte for byte in content[half : half + 200])
            + content[half + 200 :],
            "no state": b"epoch 3\n",
        }[damage]
    )
    with pytest.raises(TrainingError) as caught:
        toy_fitter().run(ToyFeed(), path, "toy")
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith("); delete it and run again")
    assert "\n" not in str(caught.value)
    path.unlink()
    assert toy_fitter().run(ToyFeed(), path, "toy").epoch == 6


def test_the_history_is_reported_after_each_epoch_and_when_a_state_is_continued(tmp_path: Path) -> None:
    epochs: list[list[float]] = []

    def report(history: list[dict[str, float]]) -> None:
        epochs.append([row["epoch"] for row in history])

    with pytest.raises(KeyboardInterrupt):
        toy_fitter().run(ToyFeed(fail_in_epoch=2), tmp_path / "state.pt", "toy", report)
    assert epochs == [[1], [1, 2]]
    epochs.clear()
    toy_fitter(epochs=4).run(ToyFeed(), tmp_path / "state.pt", "toy", report)
    assert epochs == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
