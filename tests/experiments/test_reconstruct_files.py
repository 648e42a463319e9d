"""Which files `reconstruct` reads, and what it calls those that it writes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data
from small_experiment import CPU
from small_reconstruction import made, run, three_photographs

from pipeline.core.errors import DataError
from pipeline.evaluation.pictures import Picture
from pipeline.experiments import reconstruction
from pipeline.experiments.reconstruction import find_photographs, reconstruct
from stages.reconstruct import _squashed


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return three_photographs(tmp_path)


def test_folders_files_and_patterns(photographs: Path) -> None:
    everything = {photographs / "cat.png", photographs / "deeper/cat.jpg", photographs / "tasse à café.png"}
    assert set(find_photographs([str(photographs)])) == everything
    assert find_photographs([str(photographs / "*.png")]) == [photographs / "cat.png", photographs / "tasse à café.png"]
    assert set(find_photographs([str(photographs / "**/cat.*")])) == {
        photographs / "cat.png",
        photographs / "deeper/cat.jpg",
    }
    twice = find_photographs([str(photographs / "cat.png"), str(photographs)])
    assert len(twice) == 3
    assert twice[0] == photographs / "cat.png"


def test_equal_names_get_pictures_of_their_own(photographs: Path, tmp_path: Path) -> None:
    result = run(photographs, output=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = ("cat", "cat-2", "tasse à café")
    assert names == {f"{stem}{end}.png" for stem in stems for end in ("", "_reconstruction")} | {"scores.csv"}
    table = pd.read_csv(tmp_path / "out/scores.csv")
    assert list(table["file"]) == [str(path) for path in find_photographs([str(photographs)])]
    assert table["psnr"].tolist() == pytest.approx([row["psnr"] for row in result.scores], rel=1e-5)


def test_no_photograph_is_replaced_by_its_own_picture(photographs: Path, tmp_path: Path) -> None:
    before = (photographs / "cat.png").read_bytes()
    (tmp_path / "linked").symlink_to(photographs)
    for out in (photographs, tmp_path / "linked"):
        result = run(photographs / "cat.png", output=out)
        assert result.scores[0]["picture"] == "cat-2.png"
        assert (photographs / "cat-2_reconstruction.png").is_file()
        assert (photographs / "cat.png").read_bytes() == before


def test_a_name_that_is_not_utf8_is_spelt_out(photographs: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(photographs) + b"/caf\xe9.png"))
    shutil.copy(photographs / "cat.png", odd)
    result = run(odd, output=tmp_path / "out")
    assert result.scores[0]["picture"] == r"caf\xe9.png"
    assert pd.read_csv(tmp_path / "out/scores.csv")["file"].tolist() == [rf"{photographs}/caf\xe9.png"]
    odd.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"caf\\xe9.png: "):
        run(odd, output=tmp_path / "out")


def test_a_quoted_home_folder_is_found(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photographs))
    assert find_photographs(["~/deeper/*.jpg"]) == [photographs / "deeper/cat.jpg"]


def test_what_is_done_has_its_scores_though_the_rest_is_stopped(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = reconstruction.save_png

    def full(picture: Picture, path: Path) -> None:
        if path.name.startswith("tasse"):
            raise OSError("no space left on device")
        save(picture, path)

    monkeypatch.setattr(reconstruction, "save_png", full)
    with pytest.raises(OSError, match="no space left"):
        run(photographs, output=tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/scores.csv")["picture"].tolist() == ["cat.png", "cat-2.png"]


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no photographs"):
        run(tmp_path, output=tmp_path / "out")


def test_a_file_as_output_is_refused_before_any_work(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(DataError, match=r"^--out .*out: .*out is a file; name a folder, it is made when missing$"):
        reconstruct([str(photographs)], tmp_path / "no model", made().params, tmp_path / "out", CPU)
    assert (tmp_path / "out").read_text() == "kept"


def test_a_photograph_that_is_squashed_far_is_said_to_be(tmp_path: Path) -> None:
    Image.fromarray(data.chelsea()[:, :100]).save(tmp_path / "portrait.png")
    Image.fromarray(data.chelsea()).save(tmp_path / "usual.png")
    rows = run(tmp_path / "portrait.png", tmp_path / "usual.png", output=tmp_path / "out").scores
    assert [round(row["stretch"], 1) for row in rows] == [3.0, 1.5]
    assert pd.read_csv(tmp_path / "out/scores.csv")["stretch"].round(1).tolist() == [3.0, 1.5]
    assert "1:3.0" in _squashed(rows[0])
    assert "squashed" in _squashed(rows[0])
    assert _squashed(rows[1]) == ""


@pytest.mark.parametrize(("rule", "box"), [("squash", None), ("short_side", (0, 100, 100, 200))])
def test_a_portrait_is_cut_by_the_rule_of_the_model_and_not_of_params(
    tmp_path: Path, rule: str, box: tuple[int, int, int, int] | None
) -> None:
    """A 1:3 portrait, and a model that says how its own photographs were resized; params.yaml says the other by now."""
    portrait = Image.fromarray(data.chelsea()[:, :100])
    portrait.save(tmp_path / "portrait.png")
    models = tmp_path / "models"
    shutil.copytree(made().models, models)
    description = json.loads((models / "model.json").read_text())
    description["prepare"]["resize"] = rule
    (models / "model.json").write_text(json.dumps(description))
    other = {"squash": "short_side", "short_side": "squash"}[rule]
    params = made().params.model_copy(update={"prepare": made().params.prepare.model_copy(update={"resize": other})})
    (row,) = reconstruct([str(tmp_path / "portrait.png")], models, params, tmp_path / "out", CPU).scores
    expected = np.asarray(portrait.crop(box).resize((72, 72), Image.Resampling.BICUBIC))[4:68, 4:68]
    seen = np.asarray(Image.open(tmp_path / "out/portrait.png"))
    np.testing.assert_array_equal(seen[20 : 20 + 192 : 3, 6 : 6 + 192 : 3], expected)  # 64 pixels, three times as large
    assert bool(_squashed(row)) == (rule == "squash")
    assert row["stretch"] == pytest.approx(3.0 if rule == "squash" else 1.0)
