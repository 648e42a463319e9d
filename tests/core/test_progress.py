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
