"""Every loss term against an independent computation; how terms are weighed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from messages import says
from ruamel.yaml import YAML
from skimage.metrics import structural_similarity

from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.params import load_params
from pipeline.metrics.similarity import load_lpips
from pipeline.training.losses import TERMS, Loss
from stages.loading import load_checked

PARAMS = Path(__file__).parents[2] / "params.yaml"


def _pair(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, size, size, generator=generator)
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AlexNet (its convolutions) where torchvision keeps the trained one."""
    home = tmp_path_factory.mktemp("torch_home")
    path = home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.AlexNet().state_dict()
    torch.save({key: value for key, value in state.items() if key.startswith("features")}, path)
    return home


@pytest.fixture
def lpips_weights(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))


def test_mse_and_l1_are_means_over_everything() -> None:
    prediction, target = _pair()
    difference = (prediction - target).double().numpy()
    values = Loss({"mse": 1.0, "l1": 1.0})(prediction, target)
    assert values["mse"].item() == pytest.approx(np.mean(difference**2), rel=1e-5)
    assert values["l1"].item() == pytest.approx(np.mean(np.abs(difference)), rel=1e-5)


def test_ssim_is_one_minus_scikit_images() -> None:
    prediction, target = _pair()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    scores = [
        structural_similarity(p.double().numpy(), t.double().numpy(), channel_axis=0, **settings)
        for p, t in zip(prediction, target, strict=True)
    ]
    assert Loss({"ssim": 1.0})(prediction, target)["ssim"].item() == pytest.approx(1 - np.mean(scores), abs=1e-5)


@pytest.mark.usefixtures("lpips_weights")
def test_lpips_is_the_mean_distance() -> None:
    prediction, target = _pair()
    expected = load_lpips()(prediction, target).mean()
    torch.testing.assert_close(Loss({"lpips": 1.0})(prediction, target)["lpips"], expected)


@pytest.mark.usefixtures("lpips_weights")
@pytest.mark.parametrize("name", ["mse", "lpips", "hybrid", "ssim_l1", "perceptual"])
def test_presets_of_params_yaml_are_weighted_sums(name: str) -> None:
    terms = YAML(typ="safe", pure=True).load(PARAMS)["losses"][name]
    prediction, target = _pair()
    prediction.requires_grad_()
    values = Loss(terms, load_params(PARAMS, ["prepare.crop=64"]))(prediction, target)
    assert set(values) == {*terms, "total"}
    expected = sum(weight * values[term].item() for term, weight in terms.items())
    assert values["total"].item() == pytest.approx(expected, rel=1e-5)
    values["total"].backward()
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad.abs().max() > 0


@pytest.mark.usefixtures("lpips_weights")
@pytest.mark.parametrize("name", TERMS.names())
def test_every_term_is_zero_at_the_target_and_grows_with_the_error(name: str) -> None:
    _, target = _pair()
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    loss = Loss({name: 1.0}, load_params(PARAMS, ["prepare.crop=64"]))
    losses = [loss(target + scale * noise, target)[name].item() for scale in (0.0, 0.02, 0.1)]
    assert losses[0] == pytest.approx(0, abs=1e-7)
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.usefixtures("lpips_weights")
def test_terms_are_computed_in_float32_whatever_comes_in() -> None:
    prediction, target = _pair()
    loss = Loss({"mse": 1.0, "l1": 1.0, "ssim": 1.0, "lpips": 1.0})
    expected = loss(prediction.bfloat16().float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        actual = loss(prediction.bfloat16(), target)
    for name, value in actual.items():
        assert value.dtype == torch.float32
        assert value.shape == ()
        torch.testing.assert_close(value, expected[name])


@pytest.mark.usefixtures("lpips_weights")
def test_training_mode_changes_nothing() -> None:
    prediction, target = _pair()
    loss = Loss({"mse": 0.5, "lpips": 0.5})
    before = loss.eval()(prediction, target)["total"]
    assert torch.equal(loss.train()(prediction, target)["total"], before)
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_a_term_of_weight_zero_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no LPIPS weights here
    assert set(Loss({"mse": 1.0, "lpips": 0.0})(*_pair())) == {"mse", "total"}


def test_lpips_without_weights_refuses_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"alexnet-owt-7be5be79.pth.*`python -m stages weights lpips`"):
        Loss({"mse": 0.5, "lpips": 0.5})


@pytest.mark.parametrize("terms", [{}, {"mse": 0.0}])
def test_a_loss_without_terms_is_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ParamsError) as caught:
        Loss(terms)
    says(caught.value, terms, "no term above 0", ", ".join(TERMS.names()))


def test_an_unknown_term_is_refused() -> None:
    with pytest.raises(ParamsError, match=f"unknown loss term 'huber'; choose one of: {', '.join(TERMS.names())}"):
        Loss({"huber": 1.0})


@pytest.mark.usefixtures("lpips_weights")
def test_a_loss_names_the_files_behind_it(torch_home: Path) -> None:
    (file,) = torch_home.rglob("*.pth")
    assert Loss({"mse": 1.0, "lpips": 1.0}).weights_sha256 == {"lpips": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert Loss({"mse": 1.0, "lpips": 0.0}).weights_sha256 == {}


def test_a_damaged_file_is_found_when_params_are_read(
    torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (whole,) = torch_home.rglob("*.pth")
    damaged = tmp_path / whole.relative_to(torch_home)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=rf"^{damaged} is not the state dict of torchvision's AlexNet .*; replace"):
        load_checked(PARAMS, ["loss=hybrid"])
    load_checked(PARAMS, ["loss=mse"])
    damaged.write_bytes(whole.read_bytes())
    load_checked(PARAMS, ["loss=hybrid"])
