"""A folder of one's own: which of its files are photographs, and which splits its folders make."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from messages import says
from photo_trees import dataset, ids, save, save_all
from shipped import prepare_params

from pipeline.core.errors import DataError, ParamsError
from pipeline.data.preparation.decoding import decode

# --- which files are photographs


def test_listing_takes_photographs_by_ending_or_content(tmp_path: Path) -> None:
    save(tmp_path / "a.JPEG", 1)
    save(tmp_path / "deep/er/b.Png", 2)
    save(tmp_path / "c.webp", 3).rename(tmp_path / "c")
    save(tmp_path / "d.jpg", 4).rename(tmp_path / "d.dat")
    (tmp_path / "really_text.jpg").write_text("no image, to be found when it is decoded")
    (tmp_path / "README.txt").write_text("left alone")
    save(tmp_path / ".hidden.jpg", 5)
    save(tmp_path / "__MACOSX/._a.JPEG.png", 6)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = ids(dataset("folder", root=tmp_path).photographs())
    assert found == ["a.JPEG", "c", "d.dat", "deep/er/b.Png", "gone.png", "really_text.jpg"]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_all(tmp_path, ["a.jpg", "locked/b.jpg"])

    def scandir(place: str, inner: Callable[[str], object] = os.scandir) -> object:
        if str(place).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return inner(place)

    monkeypatch.setattr(os, "scandir", scandir)  # mode bits do not stop root
    with pytest.raises(DataError) as error:
        dataset("folder", root=tmp_path).photographs()
    says(error.value, f"'{tmp_path}/locked'", "Permission denied", "make it readable or move it")


def test_a_file_that_cannot_be_read_may_be_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes a bad file, listed with all the others."""
    save_all(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "b.jpg").rename(tmp_path / "b")

    def denied(self: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(Path, "read_bytes", denied)
    (_, unreadable) = dataset("folder", root=tmp_path).photographs()
    assert unreadable.id == "b"
    assert decode(unreadable, prepare_params()).reason == "cannot be read (Permission denied)"


def test_linked_folders_are_followed_and_never_twice(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/b.jpg", 1)
    save(tmp_path / "root/a.jpg", 2)
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "root")
    assert ids(dataset("folder", root=tmp_path / "root").photographs()) == ["a.jpg", "linked/b.jpg"]


def test_names_that_are_not_ascii_or_not_even_utf8(tmp_path: Path) -> None:
    names = ["Ärger.jpg", "日本/写真.jpg", unicodedata.normalize("NFD", "é.jpg"), "with, comma.jpg", 'quo"te.jpg']
    save_all(tmp_path, names)
    os.rename(save(tmp_path / "latin.jpg", 9), os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    photographs = dataset("folder", root=tmp_path).photographs()
    assert set(ids(photographs)) == {*names, "caf\\xe9.jpg"}
    for photograph in photographs:
        photograph.id.encode("utf-8")
        assert photograph.path.is_file()


# --- which splits its folders make


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """20 for training, 10 to test on and 3 beside them."""
    save_all(tmp_path / "train", (f"{i}.jpg" for i in range(20)))
    save_all(tmp_path / "val", (f"{i}.jpg" for i in range(10)), first_seed=100)
    save_all(tmp_path / "more", (f"{i}.jpg" for i in range(3)), first_seed=200)
    return tmp_path


def splits(root: Path, **options: object) -> tuple[Counter[str | None], dict[str, float]]:
    data = dataset("folder", root=root, validation_fraction=0.25, test_fraction=0.1, **options)
    return Counter(photograph.split for photograph in data.photographs()), dict(data.fractions())


def test_folders_and_fractions(photographs: Path) -> None:
    assert splits(photographs) == ({None: 33}, {"validation": 0.25, "test": 0.1})
    assert splits(photographs, train="train", test="val") == ({None: 20, "test": 10}, {"validation": 0.25})
    assert splits(photographs, test="val") == ({None: 23, "test": 10}, {"validation": 0.25})
    assert splits(photographs, train="train") == ({None: 20}, {"validation": 0.25, "test": 0.1})
    everything = {"train": "train", "validation": "more", "test": "./train/../val"}
    assert splits(photographs, **everything) == ({"train": 20, "validation": 3, "test": 10}, {})
    assert splits(photographs, validation="more", test="val") == ({"train": 20, "validation": 3, "test": 10}, {})


def test_the_fraction_of_a_split_with_a_folder_is_not_counted(photographs: Path) -> None:
    halves = {"validation_fraction": 0.5, "test_fraction": 0.5}
    assert dataset("folder", root=photographs, test="val", **halves).fractions() == {"validation": 0.5}
    assert dataset("folder", root=photographs, validation="more", **halves).fractions() == {"test": 0.5}
    with pytest.raises(ParamsError, match=r"datasets\.folder\.test_fraction = 0\.5: must leave photographs"):
        dataset("folder", root=photographs, train="train", **halves)


def test_folders_are_checked(photographs: Path) -> None:
    root = photographs
    with pytest.raises(DataError) as error:
        splits(root, test="vol")
    says(
        error.value,
        "datasets.folder.test = 'vol'",
        f"'{root}/vol' is not a folder",
        "create it or set datasets.folder.test to null",
    )
    with pytest.raises(ParamsError) as outside:
        splits(root, test="../val")
    says(outside.value, "datasets.folder.test = '../val'", "below datasets.folder.root", root)
    with pytest.raises(ParamsError) as overlap:
        splits(root, train="train", test="train")
    says(
        overlap.value,
        f"datasets.folder.test ('{root}/train')",
        f"datasets.folder.train ('{root}/train')",
        "one split only",
    )


def test_a_named_folder_may_be_a_link(photographs: Path, tmp_path: Path) -> None:
    (photographs / "held_out").symlink_to(save_all(tmp_path / "disk", ["x.jpg"], first_seed=300))
    assert splits(photographs, train="train", test="held_out")[0] == {None: 20, "test": 1}
