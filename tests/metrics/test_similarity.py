"""SSIM against scikit-image, LPIPS against the lpips package."""

import hashlib
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision
from devices import needs_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from pipeline.core.errors import ShapeError, WeightsError
from pipeline.metrics.alexnet import lpips_available, lpips_weights_path
from pipeline.metrics.similarity import load_lpips, ssim, ssim_map

SKIMAGE = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
    "data_range": 1,
    "channel_axis": 0,
}


def _pair(noise: float, height: int = 40, width: int = 53, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture with edges, and a noisy copy, both (2, 3, H, W) float64 in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noisy = picture + noise * torch.randn(picture.shape, dtype=torch.float64, generator=generator)
    return picture, noisy.clamp(0, 1)


def _reference(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    return [structural_similarity(a.double().numpy(), b.double().numpy(), **SKIMAGE) for a, b in zip(x, y, strict=True)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.03, 0.3, 3.0])
def test_ssim_equals_scikit_image(noise: float, dtype: torch.dtype, tolerance: float) -> None:
    x, y = (image.to(dtype) for image in _pair(noise))
    np.testing.assert_allclose(ssim(x, y).numpy(), _reference(x, y), rtol=0, atol=tolerance)


@settings(max_examples=20, deadline=None)
@given(st.integers(11, 40), st.integers(11, 40), st.floats(0, 1), st.integers(0, 99))
def test_ssim_equals_scikit_image_at_any_size(height: int, width: int, noise: float, seed: int) -> None:
    x, y = (image.float() for image in _pair(noise, height, width, seed))
    np.testing.assert_allclose(ssim(x, y).numpy(), _reference(x, y), rtol=0, atol=1e-5)


def test_the_map_is_scikit_images_valid_region() -> None:
    x, y = _pair(0.1)
    _, full = structural_similarity(x[0].numpy(), y[0].numpy(), full=True, **SKIMAGE)
    np.testing.assert_allclose(ssim_map(x, y)[0].numpy(), full[:, 5:-5, 5:-5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_images_score_exactly_one(dtype: torch.dtype) -> None:
    x = _pair(0.2)[1].to(dtype)
    assert torch.equal(ssim_map(x, x), torch.ones(2, 3, 30, 43, dtype=dtype))


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.2, 0.8), (1.0, 0.999), (1e-4, 2e-4)])
def test_constant_images_have_the_luminance_term_alone(x: float, y: float) -> None:
    images = (torch.full((1, 3, 16, 16), value) for value in (x, y))
    expected = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    assert ssim(*images).item() == pytest.approx(expected, abs=1e-6)


def test_ssim_is_symmetric_and_at_most_one() -> None:
    x, y = (image.float() for image in _pair(0.2))
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    assert ssim_map(x, y).max() <= 1


def test_half_precision_is_computed_in_float32() -> None:
    x, y = (image.bfloat16() for image in _pair(0.05))
    expected = ssim(x.float(), y.float())
    assert torch.equal(ssim(x, y), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim(x, y), expected)


def test_ssim_is_differentiable_also_at_equal_and_constant_images() -> None:
    x, y = (image[:1, :1, :12, :13].clone().requires_grad_() for image in _pair(0.1))
    assert torch.autograd.gradcheck(ssim, (x, y))
    for image in (torch.full((1, 3, 12, 12), 0.5), torch.zeros(1, 3, 12, 12), torch.rand(1, 3, 12, 12)):
        image.requires_grad_()
        ssim(image, image.detach().clone()).sum().backward()
        assert torch.isfinite(image.grad).all()


def test_ssim_leaves_the_matmul_precision_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        ssim(*_pair(0.1))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        ssim(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))
    assert str(caught.value) == "SSIM needs images of at least 11×11 pixels, but these are 10×30"


@needs_gpu
def test_ssim_on_cuda_uses_no_tf32() -> None:
    x, y = (image.float() for image in _pair(0.03))
    torch.set_float32_matmul_precision("high")
    try:
        actual = ssim(x.cuda(), y.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(actual.numpy(), _reference(x, y), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TORCH_HOME with a random AlexNet where torchvision keeps the trained one."""
    home = tmp_path_factory.mktemp("torch_home")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.AlexNet().state_dict()
    # LPIPS ignores the classifier: one number, repeated without being stored, keeps the file at 10 MB
    state |= {k: torch.zeros(1).expand(v.shape) for k, v in state.items() if k.startswith("classifier")}
    path = home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return home


@pytest.fixture
def cached(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(weights))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: pytest.fail("went to the network"))
    return tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"


@pytest.mark.usefixtures("cached")
def test_lpips_equals_the_package_called_directly() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="alex", verbose=False)
    x, y = (torch.nn.functional.interpolate(image.float(), (64, 72)) for image in _pair(0.2))
    assert lpips_available() is None
    distances = load_lpips()(x, y)
    assert distances.shape == (2,)
    assert distances.min() > 0
    torch.testing.assert_close(distances, package(2 * x - 1, 2 * y - 1).detach().flatten())


@pytest.mark.usefixtures("cached")
def test_lpips_is_a_frozen_symmetric_distance() -> None:
    torch.manual_seed(3)
    expected_random = torch.rand(1, generator=torch.Generator().manual_seed(3))
    distance = load_lpips().train()
    assert torch.equal(torch.rand(1), expected_random)  # loading it moves no random number of the experiment
    assert not distance.training
    assert not any(module.training for module in distance.modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    x, y = (torch.nn.functional.interpolate(image.float(), (64, 64)) for image in _pair(0.2))
    assert distance(x, x).tolist() == [0, 0]
    torch.testing.assert_close(distance(x, y), distance(y, x))
    x.requires_grad_()
    distance(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


@pytest.mark.usefixtures("cached")
def test_lpips_is_computed_in_float32_under_autocast() -> None:
    distance = load_lpips()
    x, y = (torch.nn.functional.interpolate(image.float(), (64, 64)) for image in _pair(0.2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(x, y), distance(x.float(), y.float()))
        assert distance(x.bfloat16(), y).dtype == torch.float32


@pytest.mark.usefixtures("cached")
def test_lpips_is_computed_without_tf32() -> None:
    distance, seen = load_lpips(), []
    cudnn = torch.backends.cudnn
    distance.network.net.slice1.register_forward_hook(lambda *_: seen.append(cudnn.allow_tf32))
    before, cudnn.allow_tf32 = cudnn.allow_tf32, True
    try:
        distance(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
        assert cudnn.allow_tf32
    finally:
        cudnn.allow_tf32 = before
    assert set(seen) == {False}


@pytest.mark.usefixtures("cached")
def test_the_weights_can_be_named_by_their_hash() -> None:
    assert load_lpips().sha256 == hashlib.sha256(lpips_weights_path().read_bytes()).hexdigest()


def test_absent_weights_are_named_with_the_remedy(empty: Path) -> None:
    reason = (
        f"LPIPS needs AlexNet's weights alexnet-owt-7be5be79.pth, which are not in {empty.parent}; run `python -m "
        "stages weights lpips`, or, without network here, run it with --to DIR on a connected machine, then "
        "with --from DIR here"
    )
    assert lpips_available() == reason
    with pytest.raises(WeightsError) as caught:
        load_lpips()
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "places",
    [{}, {"XDG_CACHE_HOME": "/caches"}, {"TORCH_HOME": "/home"}, {"TORCH_HOME": "~/x", "XDG_CACHE_HOME": "/caches"}],
    ids=str,
)
def test_the_weights_are_sought_where_torch_hub_keeps_them(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    assert lpips_weights_path().parent == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.parametrize("damage", ["empty", "text", "half", "another network", "no state dict"])
def test_damaged_weights_are_refused(damage: str, empty: Path, weights: Path) -> None:
    whole = (weights / "hub" / "checkpoints" / empty.name).read_bytes()
    contents = {"empty": b"", "text": b"<html>404</html>", "half": whole[: len(whole) // 2]}
    empty.parent.mkdir(parents=True)
    if damage in contents:
        empty.write_bytes(contents[damage])
    else:
        torch.save({"features.0.weight": torch.zeros(2)} if damage == "another network" else [1, 2], empty)
    with pytest.raises(WeightsError) as caught:
        load_lpips()
    message = str(caught.value)
    assert message.startswith(f"{empty} is not the state dict of torchvision's AlexNet (")
    assert message.endswith(" while reading it); replace the file")
