"""The metric contract against scikit-image and the lpips package; the classic mistakes."""

import lpips as lpips_package
import numpy as np
import pytest
import torch
from devices import needs_gpu
from skimage import data as photographs
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from pipeline.backbones.normalization import IMAGENET_MEAN, IMAGENET_STD
from pipeline.core.errors import ShapeError
from pipeline.evaluation.bootstrap import summarise
from pipeline.metrics import scores as metrics
from pipeline.metrics import similarity
from pipeline.metrics.scores import PSNR_CAP, check_eight_bit, check_images, score
from pipeline.metrics.similarity import Lpips


def batch(*images: np.ndarray) -> torch.Tensor:
    """8-bit (H, W, 3) images → (B, 3, H, W) float32 in [0, 1]."""
    return torch.stack([torch.from_numpy(image.copy()) for image in images]).permute(0, 3, 1, 2).float() / 255


def photograph() -> np.ndarray:
    return photographs.astronaut()[40:168, 150:278]


def noisy(image: np.ndarray, amplitude: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def constant(level: int) -> np.ndarray:
    return np.full((64, 64, 3), level, np.uint8)


RANDOM = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
PAIRS = {
    "random": (RANDOM[0], RANDOM[1]),
    "photograph, noisy": (noisy(photograph(), 20), photograph()),
    "photograph, off by one level": (noisy(photograph(), 1), photograph()),
    "photograph, mirrored": (photograph()[:, ::-1], photograph()),
    "black and white": (constant(0), constant(255)),
    "constants": (constant(100), constant(180)),
    "white and almost white": (constant(255), constant(254)),
    "constant and random": (constant(128), RANDOM[0][:, :64]),
}


def page(paper: int, ink: int, kind: str) -> np.ndarray:
    """A page that is flat but for lines of `ink`: one grey line, or lines of text."""
    image = np.full((96, 128, 3), paper, np.uint8)
    if kind == "line":
        image[50, 10:110] = ink
    else:
        for top in range(6, 90, 9):
            image[top : top + 5, 8:120][np.random.default_rng(top).random((5, 112)) < 0.4] = ink
    return image


WHITE = np.full((96, 128, 3), 255, np.uint8)
PAIRS |= {
    "a grey line and a white page": (page(255, 128, "line"), WHITE),
    "a pale line and a page of 254": (page(255, 250, "line"), WHITE - 1),
    "a grey line and its page at half the brightness": (page(255, 128, "line"), page(128, 64, "line")),
    "text and paper": (page(255, 0, "text"), WHITE),
    "text moved by one pixel": (np.roll(page(255, 0, "text"), 1, axis=1), page(255, 0, "text")),
    "white on black moved by one pixel": (np.roll(page(0, 255, "text"), 1, axis=0), page(0, 255, "text")),
    "text and pale text": (page(255, 0, "text"), page(240, 200, "text")),
    "nearly flat": (noisy(page(250, 250, "line"), 1), page(247, 247, "line")),
    "nearly white and nearly black": (noisy(WHITE, 2), noisy(0 * WHITE, 2)),
    "photograph moved by one pixel": (np.roll(photograph(), 1, axis=0), photograph()),
}


def reference(x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """scikit-image and NumPy on the same numbers in float64."""
    pairs = [(a.double().numpy(), b.double().numpy()) for a, b in zip(x, y, strict=True)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    with np.errstate(divide="ignore"):
        return {
            "psnr": np.minimum([peak_signal_noise_ratio(b, a, data_range=1) for a, b in pairs], PSNR_CAP),
            "ssim": np.array([structural_similarity(a, b, channel_axis=0, **options) for a, b in pairs]),
            "mse": np.array([np.mean((a - b) ** 2) for a, b in pairs]),
            "mae": np.array([np.mean(np.abs(a - b)) for a, b in pairs]),
        }


@pytest.mark.parametrize("name", PAIRS)
def test_every_score_is_that_of_scikit_image_in_float64(name: str) -> None:
    x, y = both_orders(name)
    scores = score(x, y)
    for metric, expected in reference(x, y).items():
        np.testing.assert_allclose(scores[metric].numpy(), expected, rtol=1e-9, atol=1e-9, err_msg=metric)


def test_every_pair_of_greys() -> None:
    """Flat images have the luminance term alone: SSIM, MSE, MAE and PSNR in closed form, a third of the 256 × 256."""
    grey = torch.arange(256).float() / 255
    for level in range(0, 256, 3):
        x, y = grey[level].expand(256, 3, 12, 12).contiguous(), grey[:, None, None, None].expand(256, 3, 12, 12)
        a, b = grey[level].double().numpy(), grey.double().numpy()
        scores = score(x, y.contiguous())
        np.testing.assert_allclose(scores["ssim"], (2 * a * b + 1e-4) / (a * a + b * b + 1e-4), rtol=0, atol=1e-9)
        np.testing.assert_allclose(scores["mse"], (a - b) ** 2, rtol=1e-12)
        np.testing.assert_allclose(scores["mae"], np.abs(a - b), rtol=1e-12)
        with np.errstate(divide="ignore"):
            expected = np.minimum(-10 * np.log10((a - b) ** 2), PSNR_CAP)
        np.testing.assert_allclose(scores["psnr"], expected, rtol=0, atol=1e-9)


def both_orders(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = PAIRS[name]
    return batch(first, second), batch(second, first)


@pytest.mark.parametrize("name", PAIRS)
def test_psnr_equals_scikit_image(name: str) -> None:
    x, y = both_orders(name)
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(y, x, strict=True)]
    np.testing.assert_allclose(metrics.psnr(x, y).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_equals_scikit_image(name: str) -> None:
    x, y = both_orders(name)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = [
        structural_similarity(a.double().numpy(), b.double().numpy(), channel_axis=0, **settings)
        for a, b in zip(y, x, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(x, y).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 6, 11])  # 3 planes each, 16 at a time
def test_ssim_in_planes_is_the_definition(count: int) -> None:
    random = torch.Generator().manual_seed(count)
    y = torch.rand(count, 3, 40, 53, generator=random)
    x = (y + 0.2 * torch.rand(y.shape, generator=random)).clamp(0, 1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(metrics.ssim(x, y), similarity.ssim(x, y).double(), rtol=0, atol=1e-6)


def test_ssim_of_too_small_images_is_refused() -> None:
    with pytest.raises(ShapeError, match="SSIM needs images of at least 11×11 pixels, but these are 10×20"):
        metrics.ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


@needs_gpu
@pytest.mark.parametrize("name", PAIRS)
def test_the_gpu_gives_the_same_scores(name: str) -> None:
    x, y = both_orders(name)
    for metric, values in score(x.cuda(), y.cuda()).items():
        torch.testing.assert_close(values.cpu(), score(x, y)[metric], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_mse_and_mae_equal_numpy(name: str) -> None:
    x, y = both_orders(name)
    expected = [mean_squared_error(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(metrics.mse(x, y).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.mae(x, y).numpy(), (x.double() - y.double()).abs().mean((1, 2, 3)).numpy(), rtol=1e-6
    )


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.mse, metrics.mae])
@pytest.mark.parametrize("name", PAIRS)
def test_symmetric_and_per_image(metric, name: str) -> None:
    x, y = both_orders(name)
    together = metric(x, y)
    assert together.shape == (2,)
    torch.testing.assert_close(together, metric(y, x), rtol=1e-6, atol=1e-7)
    alone = torch.cat([metric(x[:1], y[:1]), metric(x[1:], y[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("image", [photograph(), constant(0), constant(255), constant(77), RANDOM[0]])
def test_identical_images(image: np.ndarray) -> None:
    x = batch(image)
    assert metrics.psnr(x, x).item() == float("inf")
    assert metrics.ssim(x, x).item() == 1
    assert metrics.mse(x, x).item() == metrics.mae(x, x).item() == 0


def test_an_identical_image_counts_as_the_cap_and_does_not_make_the_mean_infinite() -> None:
    x = batch(photograph(), noisy(photograph(), 20))
    y = batch(photograph(), photograph())
    scores = score(x, y)
    assert scores["psnr"][0] == PSNR_CAP
    assert summarise({"psnr": scores["psnr"].numpy()}, ["a", "b"], 100, 0)["psnr"]["mean"] < PSNR_CAP


def test_scores_do_not_depend_on_memory_format_or_autocast() -> None:
    x, y = both_orders("photograph, noisy")
    plain = score(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        inside = score(x, y)
    channels_last = score(
        x.contiguous(memory_format=torch.channels_last), y.contiguous(memory_format=torch.channels_last)
    )
    for name, values in plain.items():
        assert torch.equal(values, inside[name])
        torch.testing.assert_close(values, channels_last[name], rtol=1e-6, atol=1e-9)


def test_mean_of_psnr_is_not_psnr_of_the_mean_error() -> None:
    x, y = batch(noisy(photograph(), 2), noisy(photograph(), 60)), batch(photograph(), photograph())
    mean = score(x, y)["psnr"].mean().item()
    pooled = peak_signal_noise_ratio(y.numpy(), x.numpy(), data_range=1)
    assert mean > pooled + 3


# --- the classic mistakes ---------------------------------------------------------------------------------------


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


MISTAKES = {
    "normalised": (
        normalised,
        r"targets span \[-\S+, \S+\]; .* in \[0, 1\]: undo the ImageNet normalisation, or clamp",
    ),
    "0 to 255": (lambda x: x * 255, r"targets span \[0, 255\]; .* in \[0, 1\]: divide by 255"),
    "-1 to 1": (lambda x: 2 * x - 1, r"targets span \[-1, \S+\]; .*: these look like \[-1, 1\], use \(x \+ 1\) / 2"),
    "not finite": (lambda x: x.where(x > 0.5, torch.nan), r"targets span .*: some values are not finite"),
    "bfloat16": (
        lambda x: x.bfloat16(),
        r"targets are torch.bfloat16; metrics need float32, computed outside autocast",
    ),
    "float64": (lambda x: x.double(), r"targets are torch.float64; metrics need float32"),
    "channels at the end": (lambda x: x.movedim(1, -1), r"targets have shape .*; metrics need \(B, 3, H, W\)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_targets_are_refused(mistake: str) -> None:
    spoil, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        check_images(spoil(batch(photograph())), "targets")


@pytest.mark.parametrize("side", [0, 1])
def test_score_refuses_either_side(side: int) -> None:
    pair = [batch(photograph()), batch(photograph())]
    pair[side] = normalised(pair[side])
    with pytest.raises(ValueError, match=("reconstructions", "targets")[side]):
        score(*pair)


def test_score_refuses_unequal_shapes() -> None:
    with pytest.raises(ValueError, match=r"reconstructions are \(1, 3, 64, 64\), targets \(1, 3, 64, 96\)"):
        score(batch(RANDOM[0][:, :64]), batch(RANDOM[0]))


def test_normalised_targets_hidden_by_a_clamp_are_refused() -> None:
    targets = normalised(batch(photograph())).clamp(0, 1)
    check_images(targets, "targets")  # the range alone does not tell
    with pytest.raises(ValueError, match="targets are not multiples of 1/255"):
        check_eight_bit(targets)
    check_eight_bit(batch(photograph()))


@pytest.fixture(scope="module")
def perceptual() -> Lpips:
    """LPIPS with its published heads on a random AlexNet: the arithmetic is the same."""
    torch.manual_seed(0)
    network = Lpips("0" * 64)
    for parameter in network.network.net.parameters():
        parameter.normal_(0, 0.05)
    return network


def test_lpips_is_the_packages_own_call_on_minus_one_to_one(perceptual: Lpips) -> None:
    x, y = both_orders("photograph, noisy")
    assert isinstance(perceptual.network, lpips_package.LPIPS)
    ours = score(x, y, perceptual)["lpips"]
    package = perceptual.network(2 * x - 1, 2 * y - 1).flatten().double()
    torch.testing.assert_close(ours, package, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours, perceptual.network(x, y, normalize=True).flatten().double(), rtol=1e-6, atol=0)


def test_unscaled_lpips_would_look_better_and_cannot_be_had(perceptual: Lpips) -> None:
    x, y = both_orders("photograph, noisy")
    mistake = perceptual.network(x, y).flatten().double()
    assert (mistake < 0.9 * score(x, y, perceptual)["lpips"]).all()
    with pytest.raises(ValueError, match=r"these look like \[-1, 1\]"):
        score(2 * x - 1, 2 * y - 1, perceptual)
