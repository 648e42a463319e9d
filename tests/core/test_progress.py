"""Progress on a terminal and in a log."""

import sys

import pytest
from rich.console import Console

from pipeline.core import progress as module
from pipeline.core.progress import progress


def test_a_log_gets_one_closing_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("extract", 8, "rows", done=2) as advance:
        for _ in range(3):
            advance(2)
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("extract: 6 rows in ")
    assert line.endswith(" rows/s)")
    assert "\x1b" not in line


def test_a_terminal_gets_stage_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminal(stderr: bool) -> Console:
        assert stderr
        return Console(file=sys.stderr, force_terminal=True, width=120)

    monkeypatch.setattr(module, "Console", terminal)
    with progress("extract", 8, "rows") as advance:
        advance(2)
    printed = capsys.readouterr().err
    assert "extract" in printed
    assert "2/8" in printed
    assert "rows/s" in printed
    assert "-:--:--" in printed  # no rate yet, so no time left


@pytest.mark.parametrize(
    ("total", "done", "advanced", "said"),
    [
        (1, 0, 1, "prepare: 1 photograph in "),
        (3, 0, 3, "prepare: 3 photographs in "),
        (3, 3, 0, "prepare: nothing left to do, all 3 photographs done before"),
        (1, 1, 0, "prepare: nothing left to do, the one photograph done before"),
        (0, 0, 0, "prepare: no photographs to do"),
    ],
)
def test_the_closing_line_is_right_for_none_and_for_one(
    capsys: pytest.CaptureFixture[str], total: int, done: int, advanced: int, said: str
) -> None:
    with progress("prepare", total, "photographs", done) as advance:
        advance(advanced)
    assert capsys.readouterr().err.startswith(said)
