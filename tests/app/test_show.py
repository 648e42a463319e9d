"""Parts that pages share."""

import time
from collections.abc import Iterator

import pytest

from app.show import Comparison, comparison, paced


def test_pictures_are_paced_and_the_last_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def steps(count: int) -> Iterator[int]:
        nonlocal clock
        for number in range(count):
            clock += 0.25
            yield number

    assert list(paced(steps(8), 0.5)) == [0, 2, 4, 6, 7]
    assert list(paced(steps(5), 0.5)) == [0, 2, 4]
    assert list(paced(steps(1), 0.5)) == [0]
    assert list(paced(iter(()), 0.5)) == []


def test_pictures_of_a_slider_stay_in_the_page() -> None:
    slider = comparison("two")
    assert isinstance(slider, Comparison)
    assert slider.get_block_name() == "imageslider"  # what the browser draws
    assert [each["url"] for each in slider.postprocess(("data:a", "data:b"))] == ["data:a", "data:b"]
    assert slider.postprocess(None) is None
