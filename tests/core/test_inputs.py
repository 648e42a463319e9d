"""What an inverter takes, by name: features, and the refined image of two stages or none."""

import pytest
import torch

from pipeline.core.sources import Inputs


def test_the_image_is_the_image_whatever_is_made_of_it() -> None:
    one, two = Inputs((1, 2)), Inputs((1,), 3)
    assert list(one) == [1, 2]
    assert list(two) == [1, 3]
    assert one.map(lambda each, other: (each, other), "ab") == Inputs(((1, "a"), (2, "b")))
    assert two.map(lambda each, other: (each, other), "ab") == Inputs(((1, "a"),), (3, "b"))


def test_as_many_are_needed_as_there_are_inputs() -> None:
    with pytest.raises(ValueError, match="argument"):
        Inputs((1,), 3).map(lambda each, other: each, "a")


def test_rows_are_those_of_the_features_and_of_the_image() -> None:
    inputs = Inputs((torch.arange(12).view(3, 4),), torch.arange(6).view(3, 2))
    chosen = inputs.at(torch.tensor([2, 0])).to(torch.device("meta"))
    assert [each.shape for each in chosen] == [(2, 4), (2, 2)]
    assert inputs.at(1).image.tolist() == [2, 3]
