"""Reading ahead: in order, no further than asked for, and nothing goes on when the caller stops."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.core.prefetch import prefetch


def test_what_is_made_comes_in_order_whatever_it_takes() -> None:
    def slow(item: int) -> int:
        time.sleep(0.01 * (item % 3 == 0))
        return item**2

    assert list(prefetch(range(20), slow, threads=4, ahead=6)) == [item**2 for item in range(20)]


def test_no_more_is_drawn_than_ahead_and_none_in_another_thread() -> None:
    drawn: list[str] = []

    def items() -> Iterator[int]:
        for item in range(10):
            drawn.append(threading.current_thread().name)
            yield item

    made = prefetch(items(), lambda item: item, threads=2, ahead=3)
    for taken in range(1, 11):
        next(made)
        assert len(drawn) == min(10, taken + 2)
    assert set(drawn) == {threading.current_thread().name}


def test_the_next_is_made_while_the_caller_works() -> None:
    begun = threading.Event()

    def make(item: int) -> int:
        if item == 1:
            begun.set()
        return item

    made = prefetch([0, 1], make, threads=1, ahead=2)
    next(made)
    assert begun.wait(5)


def test_an_error_comes_in_its_turn() -> None:
    made = prefetch([1, 0, 2], lambda item: 6 // item, threads=2, ahead=3)
    assert next(made) == 6
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_a_caller_that_stops_waits_for_no_more_than_has_begun() -> None:
    seen: list[int] = []

    def make(item: int) -> int:
        time.sleep(0.05)
        seen.append(item)
        return item

    made = prefetch(range(100), make, threads=1, ahead=50)
    next(made)
    made.close()
    assert len(seen) <= 3
