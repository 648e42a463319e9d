"""Tables as text: Markdown for files, aligned columns for a terminal or a log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import DataRow, TableFormat, tabulate

_ROW = DataRow("| ", " | ", " |")
_MARKDOWN = TableFormat(  # no padding, so that a changed cell changes only its own row
    lineabove=None,
    linebelowheader=lambda widths, _: "|" + "---|" * len(widths),
    linebetweenrows=None,
    linebelow=None,
    headerrow=_ROW,
    datarow=_ROW,
    padding=0,
    with_header_hide=None,
)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of these cells, without a final newline."""
    return tabulate([*rows], header, _MARKDOWN, stralign=None, disable_numparse=True)


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest cell: the first `left` aligned to the left, the others to the right."""
    aligned = ["left"] * left + ["right"] * (len(header) - left)
    return tabulate([header, *rows], tablefmt="plain", colalign=aligned, disable_numparse=True)
