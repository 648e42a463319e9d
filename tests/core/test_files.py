"""Files appear whole or not at all, and what another name still holds is never written through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.core.files import whole_file, write_whole
from stages.__main__ import app

ROOT = Path(__file__).parents[2]


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder/file"
    with pytest.raises(UnicodeEncodeError), whole_file(path) as part, part.open("w", 1, encoding="ascii") as file:
        file.writelines(["half\n", "\N{SNOWMAN}"])
    assert not list(path.parent.iterdir())
    write_whole(path, b"whole")
    assert [(entry.name, entry.read_bytes()) for entry in path.parent.iterdir()] == [("file", b"whole")]


def test_a_link_into_a_cache_is_replaced_not_written_through(tmp_path: Path) -> None:
    cached, path = tmp_path / "cached", tmp_path / "file"
    cached.write_bytes(b"cached")
    cached.chmod(0o444)  # DVC protects its links so
    os.link(cached, path)
    write_whole(path, b"new")
    assert (cached.read_bytes(), path.read_bytes()) == (b"cached", b"new")


def test_check_replaces_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cached, checked = tmp_path / "cached", tmp_path / "data/checked"
    cached.write_text("cached")
    checked.parent.mkdir()
    os.link(cached, checked)
    result = CliRunner().invoke(app, ["check", "--params", str(ROOT / "params.yaml")])
    assert result.exit_code == 0, result.exception
    assert (cached.read_text(), checked.read_text()) == ("cached", "params.yaml is valid\n")
