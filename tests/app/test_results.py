"""What the pages show is what the library computes: reconstruction, tampering, upper bound, live frames."""

import base64
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from small_checkout import EXPERIMENTS, small_checkout

from app import results
from app.laboratory import Laboratory
from pipeline.core.errors import ParamsError, PipelineError
from pipeline.core.params import load_params
from pipeline.experiments.tampering import Tampering
from pipeline.metrics.scores import psnr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory(small_checkout())


@pytest.fixture(scope="module")
def photo(laboratory: Laboratory) -> str:
    return laboratory.photographs()[0]


@pytest.fixture(scope="module")
def result(laboratory: Laboratory, photo: str) -> results.Result:
    return results.reconstruct(laboratory, photo, "workspace")


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_a_test_photograph_scores_as_its_evaluation_said(laboratory: Laboratory) -> None:
    table = (small_checkout() / "metrics/per_image.csv").read_text().splitlines()
    columns = table[0].split(",")
    for line in table[1:3]:
        row = dict(zip(columns, line.split(","), strict=True))
        found = results.reconstruct(laboratory, row["image"], "workspace")
        assert found.scores["psnr"] == pytest.approx(float(row["psnr"]), abs=0.01)
        assert found.floors["bicubic thumbnail"]["psnr"] == pytest.approx(float(row["bicubic_psnr"]), abs=0.01)
        assert found.floors["mean colour"]["ssim"] == pytest.approx(float(row["mean_colour_ssim"]), abs=1e-3)
        assert found.floors["JPEG, equal bytes"]["psnr"] == pytest.approx(float(row["jpeg_psnr"]), abs=0.01)


def test_the_pictures_are_the_pixels_of_the_numbers(result: results.Result) -> None:
    original, reconstruction = map(pixels, results.pair(result))
    error = np.square(original / 255 - reconstruction / 255).mean()
    assert -10 * np.log10(error) == pytest.approx(result.scores["psnr"], abs=0.1)  # of 8 bits
    assert [caption for caption, _ in results.tiles(result.original, result.reconstruction)] == [
        "original",
        "reconstruction",
        "error × 5",
        "local SSIM",
    ]


def test_what_a_page_offers(result: results.Result) -> None:
    html = results.page(result)
    numbers = json.loads(base64.b64decode(re.findall(r'href="data:application/json;base64,([^"]*)"', html)[0]))
    assert numbers == json.loads(json.dumps(result.numbers()))
    assert "dvc exp run" in html
    assert "squashed" in html
    assert ("lpips" in numbers["scores"]) != any("LPIPS" in note for note in numbers["notes"])


def test_a_photograph_like_the_training_set_is_not_marked_and_noise_is(laboratory: Laboratory, photo: str) -> None:
    assert results.reconstruct(laboratory, photo, "workspace").unlike is None
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    flat = Image.new("RGB", (128, 128), "gray")
    for image in (noise, flat):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found = results.reconstruct(laboratory, laboratory.uploads.add("odd.png", buffer.getvalue()), "workspace")
        assert found.unlike
        assert "Unlike the training photographs" in results.page(found)


def test_without_a_prior_the_page_names_the_command(tmp_path, photo: str) -> None:  # type: ignore[no-untyped-def]
    import shutil

    root = shutil.copytree(small_checkout(), tmp_path / "checkout", ignore=shutil.ignore_patterns("prior*", ".git"))
    found = results.reconstruct(Laboratory(root), photo, "workspace")
    assert any("python -m stages prior" in note for note in found.notes)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_line_that_makes_a_model(laboratory: Laboratory, photo: str, name: str) -> None:
    line = shlex.split(results.reconstruct(laboratory, photo, name).command)
    assert line[:3] == ["dvc", "exp", "run"]
    made = load_params(small_checkout() / "params.yaml", line[4::2])
    wanted = laboratory.loaded(name).params
    assert (made.backbone, made.layer, made.decoder) == (wanted.backbone, wanted.layer, "linear")
    assert made.backbone_params(made.backbone).weights == wanted.backbone_params(wanted.backbone).weights
    assert made.train == wanted.train


def test_the_line_adds_a_key_that_params_lack(tmp_path: Path, photo: str) -> None:
    params = tmp_path / "params.yaml"
    entry = "  efficientnet_lite0:\n    weights: package\n"
    text = (small_checkout() / "params.yaml").read_text()
    assert f"{entry}    seed: 0" in text
    params.write_text(re.sub(f"({entry})    seed: .*\n", r"\1", text))
    line = results.reconstruct(Laboratory(small_checkout(), params), photo, "shallow-random").command
    assert "-S ++backbones.efficientnet_lite0.seed=0" in line  # as DVC wants it


def test_a_name_is_text(laboratory: Laboratory) -> None:
    name = '<img src=x onerror="alert(1)">.png'
    buffer = io.BytesIO()
    Image.fromarray(data.chelsea()).save(buffer, "PNG")
    html = results.page(results.reconstruct(laboratory, laboratory.uploads.add(name, buffer.getvalue()), "workspace"))
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html.replace("<wbr>", "")


def test_no_change_is_the_reconstruction_and_each_change_costs(laboratory: Laboratory, result: results.Result) -> None:
    name = result.photograph.name
    untouched = results.tamper(laboratory, name, "workspace", Tampering())
    torch.testing.assert_close(untouched["reconstruction"], result.reconstruction)
    assert untouched["bits_per_pixel"] == 64 * 32 * 32 * 16 / 64**2  # float16
    fewer, alone, noisy, coarse, blank = (
        results.tamper(laboratory, name, "workspace", change)
        for change in (
            Tampering(top=8),
            Tampering(alone=3),
            Tampering(noise=1),
            Tampering(bits=2),
            Tampering(blank=(0.0, 0.0, 0.5, 1.0)),
        )
    )
    for each in (fewer, alone, noisy, coarse, blank):
        assert each["psnr"] < untouched["psnr"]
        assert float(psnr(each["reconstruction"][None], each["original"][None])) == pytest.approx(each["psnr"])
    assert fewer["bits_per_pixel"] == untouched["bits_per_pixel"] / 8
    assert alone["bits_per_pixel"] == untouched["bits_per_pixel"] / 64
    assert noisy["bits_per_pixel"] == untouched["bits_per_pixel"]
    assert coarse["bits_per_pixel"] == (64 * 32 * 32 * 2 + 64 * 64) / 64**2
    assert blank["bits_per_pixel"] == untouched["bits_per_pixel"] / 2
    above, below = (
        (blank["reconstruction"] - result.reconstruction).abs()[:, rows] for rows in (slice(24), slice(48, 64))
    )
    assert float(above.mean()) > 10 * float(below.mean())


def test_a_change_that_cannot_be_made_gets_a_sentence(laboratory: Laboratory, photo: str) -> None:
    with pytest.raises(ParamsError, match="0 to 63"):
        results.tamper(laboratory, photo, "workspace", Tampering(alone=64))
    for wrong in ({"bits": 9}, {"noise": -1.0}, {"top": -1}, {"blank": (0.0, 0.0, 2.0, 0.0)}):
        with pytest.raises(ParamsError, match="must be"):
            Tampering(**wrong)  # type: ignore[arg-type]


def test_the_upper_bound_rises_step_by_step(laboratory: Laboratory, result: results.Result) -> None:
    steps = list(results.refine(laboratory, result.photograph.name, "workspace", "lbfgs", 6))
    assert [len(step.curve) for step in steps] == [*range(1, 8)]
    curve = steps[-1].curve
    assert curve["psnr"][0] == pytest.approx(result.scores["psnr"])  # the decoder's image
    assert curve["feature_error"][6] < curve["feature_error"][1]
    assert curve["psnr"][6] > curve["psnr"][0]


def test_the_map_refiner_learns_from_the_cache(laboratory: Laboratory, photo: str) -> None:
    *_, last = results.refine(laboratory, photo, "workspace", "map", 3)
    assert len(last.curve) == 4
    assert last.curve["psnr"].notna().all()


def test_a_refiner_that_does_not_fit_is_refused_with_those_that_do(laboratory: Laboratory, photo: str) -> None:
    with pytest.raises(ParamsError, match="lbfgs or map"):
        next(results.refine(laboratory, photo, "workspace", "block_inverse", 3))


def test_a_stopped_refinement_lets_others_compute(laboratory: Laboratory, photo: str) -> None:
    steps = results.refine(laboratory, photo, "workspace", "lbfgs", 100)
    next(steps)
    assert laboratory.computing.acquire(timeout=1)
    laboratory.computing.release()
    steps.close()


def test_a_live_frame(laboratory: Laboratory) -> None:
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()).save(buffer, "JPEG")
    frame = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    answer = results.live(laboratory, frame, "workspace")
    expected = results.reconstruct(laboratory, frame, "workspace")
    assert float(answer["psnr"]) == pytest.approx(expected.scores["psnr"], abs=0.01)
    np.testing.assert_array_equal(pixels(answer["picture"]), pixels(results.pair(expected)[1]))
    with pytest.raises(PipelineError):
        results.live(laboratory, "data:image/jpeg;base64,AAAA", "workspace")
