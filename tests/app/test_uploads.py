"""Photographs that a browser sends: every kind that cannot be used gets a sentence; none becomes a file."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from skimage import data
from small_experiment import PARAMS

from app.laboratory import Laboratory
from app.uploads import LIMIT, Uploads, inline
from pipeline.core.errors import DataError
from pipeline.core.params import load_params
from pipeline.data.photographs import open_photographs

RULES = load_params(PARAMS).prepare


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


CAT = Image.fromarray(data.chelsea())
BAD = {
    "no image": (b"%PDF-1.7 nothing to see", "is no image that can be read"),
    "empty": (b"", "is empty"),
    "truncated": (saved(CAT, "JPEG")[:9000], "truncated"),
    "100 megapixels": (saved(Image.new("1", (10_000, 10_000)), "PNG"), "more than"),
    "animated": (saved(CAT, "GIF", save_all=True, append_images=[CAT.rotate(90)]), "several frames"),
    "CMYK": (saved(CAT.convert("CMYK"), "JPEG"), "CMYK"),
    "16-bit": (saved(Image.fromarray(np.full((64, 64), 40_000, np.uint16)), "PNG"), "16-bit"),
    "tiny": (saved(CAT.resize((8, 8)), "PNG"), "smaller than"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_a_sentence_with_its_name(kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    content, reason = BAD[kind]
    laboratory = Laboratory(tmp_path)
    key = laboratory.uploads.add("<b>cat</b>.png", content)
    with pytest.raises(DataError, match=reason) as error:
        laboratory.photograph(key, RULES)
    assert str(error.value).startswith("<b>cat</b>.png ")
    assert "choose another" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_upload_is_cut_as_a_file_is_and_turned_as_its_exif_says(tmp_path) -> None:  # type: ignore[no-untyped-def]
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(saved(CAT, "JPEG", exif=exif, quality=95))
    laboratory = Laboratory(tmp_path / "none")
    found = laboratory.photograph(laboratory.uploads.add(path.name, path.read_bytes()), RULES)
    np.testing.assert_array_equal(found.image, open_photographs([path], RULES))
    assert f"{CAT.height}×{CAT.width} pixels" in found.note  # upright
    assert "squashed" in found.note


def test_text_is_a_photograph_too(tmp_path) -> None:  # type: ignore[no-untyped-def]
    content = saved(CAT, "PNG")
    text = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert inline(text).content == content
    assert Laboratory(tmp_path).photograph(text, RULES).image.shape == (1, 3, RULES.crop, RULES.crop)


@pytest.mark.parametrize("text", ["data:image/png,AAAA", "data:image/png;base64,A!"])
def test_what_is_no_photograph_as_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="base64"):
        inline(text)


def test_the_least_used_is_forgotten_and_its_owner_told() -> None:
    uploads = Uploads(room=250)
    first, second = uploads.add("a", bytes(100)), uploads.add("b", bytes(100))
    uploads.get(first)
    uploads.add("c", bytes(100))
    assert uploads.get(first).name == "a"
    with pytest.raises(DataError, match="choose its file again"):
        uploads.get(second)


def test_a_photograph_may_have_so_many_bytes() -> None:
    with pytest.raises(DataError, match=f"{LIMIT:,}"):
        Uploads().add("large", bytes(LIMIT + 1))


def test_keys_cannot_be_guessed() -> None:
    uploads = Uploads()
    keys = {uploads.add("a", b"1") for _ in range(50)}
    assert len(keys) == 50
    assert min(map(len, keys)) > 20
