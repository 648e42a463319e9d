"""Many shards of little data: a test module that imports the fixture runs with them, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.stores import layout


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nine rows in a shard: three batches of three. 40 rows are four shards and one of four rows."""
    monkeypatch.setattr(layout, "MEGABYTE", 10_000)
    monkeypatch.chdir(tmp_path)
