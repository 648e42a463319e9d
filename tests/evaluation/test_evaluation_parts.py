"""The pieces of the evaluation on made-up images: guards, baselines, octaves, choice of pictures."""

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from pipeline.core.errors import DataError
from pipeline.evaluation import baselines
from pipeline.evaluation.gallery import extremes, spread
from pipeline.evaluation.records import histogram, octave_table, rounded
from pipeline.evaluation.scoring import Energies, References, Tally
from pipeline.evaluation.spectrum import octave_energy, octaves
from pipeline.metrics.scores import PSNR_CAP

EDGE = 64


def crops(count: int = 2) -> np.ndarray:
    image = data.coffee()
    return np.stack([image[30 * k : 30 * k + EDGE, 50 * k : 50 * k + EDGE] for k in range(count)])


def as_targets(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def tally(images: int = 2) -> Tally:
    return Tally(References(colour=torch.full((3,), 0.5), grid=(16, 16), feature_bytes=3000), images)


def noisy(targets: torch.Tensor, amplitude: float = 0.02) -> torch.Tensor:
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    return (targets + amplitude * noise).clamp(0, 1)


# --- guards -----------------------------------------------------------------------------------------------------


def test_swapped_red_and_blue_are_caught() -> None:
    pixels = crops()
    count = tally()
    count.add(noisy(as_targets(pixels)).flip(1), as_targets(pixels), pixels)
    with pytest.raises(
        DataError, match=r"fit their photographs \d+\.\d dB better with red and blue swapped: something is BGR"
    ):
        count.columns()


def test_right_colours_pass_and_so_do_grey_images() -> None:
    pixels = crops()
    grey = np.repeat(pixels[..., :1], 3, axis=-1)
    for each in (pixels, grey):
        count = tally()
        count.add(noisy(as_targets(each)), as_targets(each), each)
        assert "swapped_psnr" not in count.columns()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_of_one_colour_has_numbers_for_all_its_floors(level: int) -> None:
    """Black survives the thumbnail, and any grey the JPEG, exactly."""
    pixels = np.full((2, EDGE, EDGE, 3), level, np.uint8)
    count = tally()
    count.add(as_targets(pixels), as_targets(pixels), pixels)
    columns = count.columns()
    assert all(np.isfinite(values).all() for values in columns.values())
    assert columns["psnr"].tolist() == columns["jpeg_psnr"].tolist() == [PSNR_CAP, PSNR_CAP]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: (y - 0.45) / 0.225, "targets span"),
        (lambda y: ((y - 0.45) / 0.225).clamp(0, 1), "targets are not multiples of 1/255"),
        (lambda y: y * 255, "targets span"),
    ],
)
def test_spoilt_targets_are_refused(spoil, message: str) -> None:
    pixels = crops()
    with pytest.raises(ValueError, match=message):
        tally().add(as_targets(pixels), spoil(as_targets(pixels)), pixels)


@pytest.mark.parametrize("spoil", [lambda x: x * 255, lambda x: (x - 0.45) / 0.225, lambda x: x.half()])
def test_spoilt_reconstructions_are_refused(spoil) -> None:
    pixels = crops()
    with pytest.raises(ValueError, match="reconstructions "):
        tally().add(spoil(as_targets(pixels)), as_targets(pixels), pixels)


# --- streaming --------------------------------------------------------------------------------------------------


def test_batches_add_up_whatever_their_size() -> None:
    pixels = crops(5)
    whole, parts = tally(5), tally(5)
    predictions, targets = noisy(as_targets(pixels)), as_targets(pixels)
    whole.add(predictions, targets, pixels)
    for part in (slice(0, 2), slice(2, 5)):
        parts.add(predictions[part], targets[part], pixels[part])
    for name, values in whole.columns().items():
        np.testing.assert_allclose(values, parts.columns()[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(whole.energies().error, parts.energies().error, rtol=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images() -> None:
    """The resident size of a process of its own, after 50 images of 128 pixels and after 250 more.

    Keeping the 250 targets alone, or the predictions, would be 47 MiB.
    """
    run = subprocess.run(
        [sys.executable, "-c", STREAM], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    early, late = map(int, run.stdout.split())
    assert late - early < 30, f"{early} MiB after 50 images, {late} MiB after 300"


STREAM = """
import sys
sys.path[:0] = ["../..", "../support"]
from pathlib import Path
from test_evaluation_parts import as_targets, crops, noisy, tally

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

pixels = crops(10).repeat(2, axis=1).repeat(2, axis=2)
count = tally(300)
for batch in range(30):
    count.add(noisy(as_targets(pixels)), as_targets(pixels), pixels)
    if batch == 4:
        print(resident())
assert len(count.columns()["psnr"]) == 300
print(resident())
"""


# --- baselines --------------------------------------------------------------------------------------------------


def test_mean_colour_is_exact_over_batches() -> None:
    pixels = crops(7)
    colour = baselines.mean_colour([pixels[:3], pixels[3:]])
    np.testing.assert_allclose(colour.numpy(), pixels.reshape(-1, 3).mean(axis=0) / 255, rtol=1e-6)


def test_a_thumbnail_of_the_full_grid_is_the_image() -> None:
    targets = as_targets(crops())
    torch.testing.assert_close(baselines.thumbnail(targets, (EDGE, EDGE)), targets)


def test_jpeg_of_noise_has_room() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)
    decoded, sizes = baselines.jpeg(noise, budget=10**6, workers=1)
    assert sizes[0] > 2 * 96 * 128  # more than Pillow leaves for optimised tables
    assert np.abs(decoded.astype(int) - noise).mean() < 1


@pytest.mark.parametrize("budget", [100, 900, 1500, 2500, 10**6])
def test_jpeg_is_the_best_that_fits(budget: int) -> None:
    pixels = crops(3)
    decoded, sizes = baselines.jpeg(pixels, budget, workers=2)
    for crop, image, size in zip(pixels, decoded, sizes, strict=True):
        files = {quality: encoded(crop, quality) for quality in range(1, 101)}
        fitting = [quality for quality, file in files.items() if len(file) <= budget]
        best = files[max(fitting, default=1)]
        assert size == len(best)
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(best))))


def encoded(crop: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


# --- octaves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", [32, 64, 224, 225])
def test_octaves_touch_and_reach_the_corners(edge: int) -> None:
    bands = octaves(edge)
    assert all(lower.high == upper.low for lower, upper in pairwise(bands))
    assert bands[-1].low == 0.25
    assert bands[-1].high == pytest.approx(np.hypot(0.5, 0.5))
    assert 2 <= bands[0].low * edge < 5  # cycles over the image


@pytest.mark.parametrize(("frequency", "band"), [(0.045, 0), (0.09, 1), (0.18, 2), (0.35, 3)])
def test_a_wave_lies_in_its_octave(frequency: float, band: int) -> None:
    x = torch.arange(EDGE, dtype=torch.float32)
    for phase in (x[None, :].expand(EDGE, EDGE), x[:, None].expand(EDGE, EDGE)):
        wave = 0.5 + 0.4 * torch.sin(2 * torch.pi * frequency * phase)
        energy = octave_energy(wave.expand(1, 3, EDGE, EDGE))[0]
        assert energy[band] / energy.sum() > 0.85  # the window widens every wave by two cycles an image


def test_energy_is_that_of_numpys_transform() -> None:
    images = as_targets(crops(1))
    window = np.hanning(EDGE)
    plane = images[0].double().numpy()
    spectrum = np.fft.fft2((plane - plane.mean((1, 2), keepdims=True)) * np.outer(window, window))
    frequency = np.fft.fftfreq(EDGE)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    power = (np.abs(spectrum) ** 2).sum(axis=0)
    expected = [power[(radius >= band.low) & (radius < band.high + (band.low == 0.25))].sum() for band in octaves(EDGE)]
    np.testing.assert_allclose(octave_energy(images)[0].numpy(), expected, rtol=1e-4)


def test_survival_of_a_blurred_image_falls_with_frequency() -> None:
    pixels = crops()
    count = tally()
    count.add(baselines.thumbnail(as_targets(pixels), (16, 16)), as_targets(pixels), pixels)
    table = octave_table(count.energies())
    assert list(table["survives"]) == sorted(table["survives"], reverse=True)
    assert table["survives"][0] > 0.95
    assert table["survives"][-1] < 0.1


def test_octaves_without_energy_or_error_are_numbers() -> None:
    table = octave_table(Energies(EDGE, np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 7.0])))
    np.testing.assert_allclose(table["survives"], [1, 1, 0, 0])
    np.testing.assert_allclose(table["snr_db"], [100, 100, 0, -10 * np.log10(7)])


# --- choices ----------------------------------------------------------------------------------------------------


def test_extremes_go_from_better_to_worse() -> None:
    scores = np.array([5.0, 9.0, 1.0, 7.0, 3.0])
    assert extremes(scores, 1) == {"best": [1], "median": [0], "worst": [2]}
    assert extremes(scores, 3) == {"best": [1, 3, 0], "median": [3, 0, 4], "worst": [0, 4, 2]}
    assert extremes(scores, 9) == {name: [1, 3, 0, 4, 2] for name in ("best", "median", "worst")}


def test_samples_are_spread_and_do_not_depend_on_scores() -> None:
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(1, 8) == [0]


def test_histogram_lies_on_a_fixed_grid() -> None:
    centres, counts = histogram(np.array([30.2, 30.9, 32.0]), 1.0)
    np.testing.assert_allclose(centres, [29.5, 30.5, 31.5, 32.5, 33.5])
    assert list(counts) == [0, 2, 0, 1, 0]


def test_rounding_reaches_every_level() -> None:
    assert rounded({"a": 1.23456789, "b": {"c": 123456789.0, "d": 3, "e": None}}) == {
        "a": 1.23457,
        "b": {"c": 123457000.0, "d": 3, "e": None},
    }
