"""prepare writes the same bytes every time: again, resumed after any interruption, never mixed with other work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from messages import says
from other_process import holding
from photo_trees import save, save_all, small_params, tree_bytes
from small_preparation import run

from pipeline.core.errors import DataError, LockedError
from pipeline.data.preparation import shards
from pipeline.data.preparation.run import prepare

TESTS = Path(__file__).parents[1] / "support"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return save_all(tmp_path / "photographs", (f"{i:02d}.png" for i in range(30)))


def test_two_runs_write_the_same_bytes_and_leave_no_work(tmp_path: Path, photographs: Path) -> None:
    run(tmp_path, "folder", photographs, name="a")
    prepare(small_params("folder", photographs), tmp_path / "b", tmp_path / "work", workers=1)
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")
    assert not tree_bytes(tmp_path / "work")
    assert str(tmp_path) not in (tmp_path / "a/manifest.json").read_text()


@pytest.mark.parametrize(
    "change",
    ["seed=1", "prepare.views=3", "prepare.crop=40", "prepare.interpolation=lanczos", "prepare.resize=short_side"],
)
def test_the_fingerprint_changes_with_whatever_changes_the_data(tmp_path: Path, photographs: Path, change: str) -> None:
    one, other = run(tmp_path, "folder", photographs), run(tmp_path, "folder", photographs, change, name="other")
    assert one.fingerprint != other.fingerprint


def test_existing_output_is_replaced(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/stray.txt").touch()
    run(tmp_path, "folder", photographs)
    assert not (tmp_path / "prepared/stray.txt").exists()


def test_repaired_files_are_decoded_again_and_only_their_shards(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 48 * 48 * 3)
    good = (photographs / "13.png").read_bytes()
    (photographs / "13.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"13.png: is truncated or broken"):
        run(tmp_path, "folder", photographs)
    (photographs / "13.png").write_bytes(good)
    decoded: list[str] = []
    monkeypatch.setattr(shards, "decode", lambda p, rules, inner=shards.decode: decoded.append(p.id) or inner(p, rules))
    run(tmp_path, "folder", photographs)
    assert sorted(decoded) == [f"{i}.png" for i in range(10, 15)]


def test_unfinished_work_on_another_root_is_not_mixed_in(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 48 * 48 * 3)
    names = [path.name for path in sorted(photographs.iterdir())]
    for seed, name in enumerate(names):
        for root, shift in (("one", 0), ("other", 100)):
            path = tmp_path / root / name
            path = save(path.with_suffix(".bmp"), seed + shift)  # uncompressed: equal sizes
            os.utime(path, (1, 1))
    save(tmp_path / "one/zz.png", 7, "L")
    with pytest.raises(DataError, match=r"zz\.png: "):
        run(tmp_path, "folder", tmp_path / "one")
    data = run(tmp_path, "folder", tmp_path / "other")
    fresh = run(tmp_path / "fresh", "folder", tmp_path / "other")
    assert tree_bytes(data.root) == tree_bytes(fresh.root)


def test_unfinished_work_of_other_code_is_not_mixed_in(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(photographs / "zz.png", 7, "L")
    with pytest.raises(DataError, match=r"zz\.png: "):
        run(tmp_path, "folder", photographs)
    monkeypatch.setattr("pipeline.core.code.digest", lambda *_, **__: "edited")
    with pytest.raises(DataError, match=r"zz\.png: "):
        run(tmp_path, "folder", photographs)
    assert len(list((tmp_path / "work/prepare").iterdir())) == 2


def test_a_second_run_at_the_same_time_is_refused_and_touches_nothing(tmp_path: Path, photographs: Path) -> None:
    save(photographs / "zz.png", 7, "L")
    with pytest.raises(DataError, match=r"zz\.png: "):
        run(tmp_path, "folder", photographs)
    (photographs / "zz.png").unlink()
    (unfinished,) = (tmp_path / "work/prepare").iterdir()
    before = tree_bytes(unfinished)
    with holding(unfinished), pytest.raises(LockedError) as error:
        run(tmp_path, "folder", photographs)
    assert str(error.value).startswith(f"another process is preparing folder in {unfinished}; wait until it ends")
    assert tree_bytes(unfinished) == before
    run(tmp_path, "folder", photographs)


def test_other_file_systems_are_refused_before_any_work(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system to try")
    monkeypatch.setattr(shards, "decode", None)
    work, output = memory / "never-made", tmp_path / "prepared"
    with pytest.raises(DataError) as error:
        prepare(small_params("folder", photographs), output, work)
    says(error.value, work, output, "different file systems", f"pass --work a directory on the file system of {output}")
    assert not work.exists()


def test_killed_between_renaming_and_removing_the_work(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Exception):
        """Stands for a killed process."""

    def killed_at_the_end(path: Path, ignore_errors: bool = False) -> None:
        if path.name != "replaced":
            raise Interrupted

    first = tree_bytes(run(tmp_path, "folder", photographs).root)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.preparation.run.shutil.rmtree", killed_at_the_end)
        with pytest.raises(Interrupted):
            run(tmp_path, "folder", photographs)
    assert list((tmp_path / "work").rglob("replaced"))
    assert tree_bytes(run(tmp_path, "folder", photographs).root) == first
    assert not tree_bytes(tmp_path / "work")


def test_damaged_unfinished_work_is_not_believed(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 48 * 48 * 3)
    save(photographs / "zz.png", 7, "L")
    with pytest.raises(DataError):
        run(tmp_path, "folder", photographs)
    shard = next((tmp_path / "work").rglob("00002.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 255
    shard.write_bytes(content)
    (photographs / "zz.png").unlink()
    run(tmp_path, "folder", photographs)
    fresh = run(tmp_path / "fresh", "folder", photographs)
    assert tree_bytes(fresh.root) == tree_bytes(tmp_path / "prepared")


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 10 * 48 * 48 * 3)

    def full(path: Path, pixels: np.ndarray, inner: object = shards._save) -> None:
        if "00002" in path.name:
            path.write_bytes(b"some")
            raise OSError(errno.ENOSPC, "No space left on device")
        inner(path, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_save", full)
        with pytest.raises(
            DataError, match=r"^cannot write .*00002.npy \(No space left on device\); free some space and run prep"
        ):
            run(tmp_path, "folder", photographs)
    assert sorted(path.name for path in (tmp_path / "work").rglob("*.npy*")) == ["00000.npy", "00001.npy"]
    decoded: list[str] = []
    monkeypatch.setattr(shards, "decode", lambda p, rules, inner=shards.decode: decoded.append(p.id) or inner(p, rules))
    run(tmp_path, "folder", photographs)
    assert len(decoded) == 10


def test_too_little_room_is_said_before_decoding(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(shards, "decode", None)
    with pytest.raises(
        DataError, match=r"^preparing 30 images of 48×48 needs 0.00 GB more in .*, where 0.00 GB are free; "
    ):
        run(tmp_path, "folder", photographs)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from photo_trees import small_params
from pipeline.data.preparation.run import prepare
from pipeline.data.preparation import shards
shards.SHARD_BYTES = 10 * 48 * 48 * 3
folder = Path({folder!r})
prepare(small_params("folder", folder / "photographs"), folder / "prepared", folder / "work")
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_all(tmp_path / "photographs", (f"{i:03d}.jpg" for i in range(100)))
    for i in range(0, 100, 2):  # large enough to be killed in the middle
        save(tmp_path / f"photographs/{i:03d}.jpg", 1000 + i, height=1000, width=900)
    child = CHILD.format(tests=str(TESTS), root=str(TESTS.parent), folder=str(tmp_path))
    finished: dict[str, int] = {}
    for wanted in (1, 3, 7):
        process = subprocess.Popen([sys.executable, "-c", child], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and len(_shards(tmp_path)) < wanted:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not (tmp_path / "prepared").exists()
        now = _shards(tmp_path)
        assert finished.items() <= now.items(), "a finished shard was written again"
        assert len(now) >= wanted
        finished = now
    subprocess.run([sys.executable, "-c", child], check=True, stderr=subprocess.DEVNULL)
    assert finished.items() <= {p.name: p.stat().st_ino for p in (tmp_path / "prepared/images").iterdir()}.items()
    monkeypatch.setattr(shards, "SHARD_BYTES", 10 * 48 * 48 * 3)
    run(tmp_path / "whole", "folder", tmp_path / "photographs")
    assert tree_bytes(tmp_path / "prepared") == tree_bytes(tmp_path / "whole/prepared")


def _shards(folder: Path) -> dict[str, int]:
    """Name and inode of each finished shard: one with its record beside it."""
    records = {path.stem for path in (folder / "work").rglob("records/*.json")}
    return {path.name: path.stat().st_ino for path in (folder / "work").rglob("*.npy") if path.stem in records}


def test_a_whole_shard_of_bad_files_and_resuming_it(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 48 * 48 * 3)
    for i in range(10, 15):
        (photographs / f"{i}.png").write_text("no image")
    with pytest.raises(DataError, match=r"^5 of 30 photographs cannot be used"):
        run(tmp_path, "folder", photographs)
    data = run(tmp_path, "folder", photographs, "prepare.on_bad_image=skip")
    assert [shard["images"] for shard in data.manifest["shards"]] == [5, 5, 0, 5, 5, 5]
    fresh = run(tmp_path / "fresh", "folder", photographs, "prepare.on_bad_image=skip")
    assert tree_bytes(fresh.root) == tree_bytes(data.root)
    assert len(data.crops(np.arange(len(data)))) == 21 * 2 + 2 + 2
