"""Progress: a bar with stage, rate and time left on a terminal; one closing line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int], None]


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} {self._unit}/s")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 photograph`, `0 photographs`, `1,600 photographs`; pass `plural` if it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


@contextmanager
def progress(stage: str, total: int, unit: str = "rows", done: int = 0) -> Iterator[Advance]:
    """Yield `advance(n)`. `done` of the `total` were finished by an earlier, interrupted run."""
    console = Console(stderr=True)
    start, count = time.perf_counter(), 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(stage, total=total, completed=done)

        def advance(amount: int) -> None:
            nonlocal count
            count += amount
            bar.advance(task, amount)

        yield advance
    seconds = time.perf_counter() - start
    print(f"{stage}: {_closing(count, done, unit, seconds)}", file=sys.stderr)


def _closing(count: int, done: int, unit: str, seconds: float) -> str:
    one = unit.removesuffix("s")
    if not count and done:
        return f"nothing left to do, {'the one ' + one if done == 1 else 'all ' + counted(done, one)} done before"
    if not count:
        return f"no {unit} to do"
    return f"{counted(count, one)} in {seconds:.1f} s ({count / max(seconds, 1e-9):.1f} {unit}/s)"
