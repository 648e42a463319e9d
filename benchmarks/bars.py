"""Measurements as one table: the quantity, its reference, and the bar it must reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from pipeline.core.tables import markdown_table


@dataclass(frozen=True)
class Bar:
    """A ratio that must be reached (`at_least`) or not exceeded (`at_most`)."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    what: str
    value: str
    ratio: float
    bar: Bar | None = None

    def cells(self) -> list[str]:
        verdict = "" if self.bar is None else ("yes" if self.bar.holds(self.ratio) else "NO")
        return [self.what, self.value, f"{self.ratio:.3g}", "" if self.bar is None else str(self.bar), verdict]


def markdown(lines: list[Line]) -> str:
    """The table as Markdown."""
    return markdown_table(["what", "measured", "ratio", "bar", "holds"], (line.cells() for line in lines))


def side_by_side(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each once a round, in turn, so that what else the machine does hits all alike; what they return, by name."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            value = run()
            if number:  # the first round warms up
                found[name].append(value)
    return found


def against(values: list[float], reference: list[float]) -> float:
    """Median over the rounds of value / reference."""
    return median(value / other for value, other in zip(values, reference, strict=True))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
