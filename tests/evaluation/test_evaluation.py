"""Evaluation of a real small experiment, from stores and checkpoint to every file it writes."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from devices import needs_gpu
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_evaluation import no_lpips_weights, scored  # noqa: F401  (autouse)
from small_experiment import CPU, Experiment, experiment

from pipeline.backbones.normalization import IMAGENET_MEAN, IMAGENET_STD
from pipeline.core.sources import Inputs
from pipeline.evaluation.conventions import differences, identity
from pipeline.evaluation.report import write_report
from pipeline.evaluation.run import evaluate
from pipeline.metrics.alexnet import ALEXNET_FILE
from pipeline.metrics.similarity import load_lpips
from pipeline.models.common.inverter import load_inverter
from pipeline.stores.opening import open_store


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("transposed_conv")


@pytest.fixture(scope="module")
def output(made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    scored(made, folder)
    return folder


@pytest.fixture(scope="module")
def metrics(output: Path) -> dict[str, Any]:
    return json.loads((output / "metrics.json").read_text())


@pytest.fixture(scope="module")
def protocol(output: Path) -> dict[str, Any]:
    return json.loads((output / "protocol.json").read_text())


@pytest.fixture(scope="module")
def per_image(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "per_image.csv")


@pytest.fixture(scope="module")
def images(made: Experiment) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions and photographs of the test split, (B, 3, H, W), made without the evaluation's code."""
    data, inverter = made.data(), load_inverter(made.models, CPU)
    rows = data.rows("test")
    features = torch.from_numpy(open_store(made.features / "vgg16" / "block1").read(rows))
    with torch.no_grad():
        predictions = inverter(Inputs((features,))).clamp(0, 1)
    return predictions, torch.from_numpy(data.crops(rows)).permute(0, 3, 1, 2).float() / 255


def test_every_image_scores_as_scikit_image_says(per_image: pd.DataFrame, images) -> None:
    settings = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1,
        "channel_axis": 0,
    }
    for (_, row), prediction, target in zip(per_image.iterrows(), *images, strict=True):
        x, y = prediction.numpy(), target.numpy()
        assert row["psnr"] == pytest.approx(
            peak_signal_noise_ratio(y, x, data_range=1), abs=1e-3
        )  # 6 digits in the file
        assert row["ssim"] == pytest.approx(structural_similarity(y, x, **settings), abs=1e-5)
        assert row["mse"] == pytest.approx(np.square(x.astype(float) - y).mean(), rel=1e-4)
        assert row["mae"] == pytest.approx(np.abs(x.astype(float) - y).mean(), rel=1e-4)


def test_metrics_are_the_means_of_the_table(metrics: dict[str, Any], per_image: pd.DataFrame) -> None:
    assert metrics["images"] == len(per_image) == 7
    for name in ("psnr", "ssim", "mse", "mae"):
        assert metrics[name]["mean"] == pytest.approx(per_image[name].mean(), rel=1e-5)
        assert metrics[name]["std"] == pytest.approx(per_image[name].std(ddof=0), rel=1e-3)
        assert metrics[name]["min"] == pytest.approx(per_image[name].min())
        assert metrics[name]["low"] < metrics[name]["mean"] < metrics[name]["high"]


def test_metrics_are_numbers_in_at_most_three_levels(metrics: dict[str, Any]) -> None:
    def check(values: dict[str, Any], depth: int) -> None:
        for value in values.values():
            if isinstance(value, dict):
                check(value, depth + 1)
            else:
                assert value is None or type(value) in (int, float)
        assert depth <= 3

    check(metrics, 1)
    assert metrics["decoder"]["parameters"] == sum(
        p.numel() for p in load_inverter(experiment().models, CPU).parameters()
    )
    assert metrics["features"]["bits_per_pixel"] == 16 * 64 * 32 * 32 / 64**2


def test_floors_against_pillow_and_numpy(metrics: dict[str, Any], made: Experiment, images) -> None:
    target = images[1]
    data = made.data()
    train = data.rows("train")
    first_views = train[np.unique(data.image[train], return_index=True)[1]]
    colour = data.crops(first_views).reshape(-1, 3).mean(axis=0) / 255
    flat = np.broadcast_to(colour[:, None, None], target.shape[1:])
    assert metrics["floors"]["mean_colour"]["psnr"] == pytest.approx(mean_psnr([flat] * len(target), target), abs=1e-3)
    small = [resized(resized(each.numpy(), 32), 64).clip(0, 1) for each in target]
    assert metrics["floors"]["bicubic"]["psnr"] == pytest.approx(mean_psnr(small, target), abs=1e-3)
    assert metrics["psnr"]["mean"] > metrics["floors"]["bicubic"]["psnr"] > metrics["floors"]["mean_colour"]["psnr"]


def resized(image: np.ndarray, edge: int) -> np.ndarray:
    """(3, H, W) float through Pillow's bicubic filter, channel by channel."""
    planes = [Image.fromarray(plane).resize((edge, edge), Image.Resampling.BICUBIC) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])


def mean_psnr(predictions: Any, targets: torch.Tensor) -> float:
    pairs = zip(targets.numpy(), predictions, strict=True)
    return float(np.mean([peak_signal_noise_ratio(y, x.astype(np.float32), data_range=1) for y, x in pairs]))


@pytest.fixture(scope="module")
def linear_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    scored(experiment("linear"), folder)
    return folder


def test_the_linear_floor_is_the_closed_form_model(metrics: dict[str, Any], linear_output: Path) -> None:
    linear = json.loads((linear_output / "metrics.json").read_text())
    assert metrics["floors"]["linear"]["psnr"] == linear["psnr"]["mean"]
    assert "linear" not in linear["floors"]


def test_the_jpeg_ceiling_is_a_real_jpeg_within_the_features_bytes(per_image: pd.DataFrame, images) -> None:
    budget = 2 * 64 * 32 * 32
    for (_, row), target in zip(per_image.iterrows(), images[1], strict=True):
        crop = (target.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=100, subsampling=0, optimize=True)
        assert row["jpeg_bytes"] == len(buffer.getvalue()) <= budget
        assert row["jpeg_psnr"] == pytest.approx(
            peak_signal_noise_ratio(crop, np.asarray(Image.open(buffer))), abs=1e-3
        )


def test_consistency_against_a_truncated_forward(per_image: pd.DataFrame, made: Experiment, images) -> None:
    torch.manual_seed(0)
    network = torchvision.models.vgg16().features[:5].eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        again = network((images[0] - mean) / std).flatten(1)
    stored = torch.from_numpy(open_store(made.features / "vgg16" / "block1").read(made.data().rows("test"))).flatten(1)
    error = (again - stored).norm(dim=1) / stored.norm(dim=1)
    np.testing.assert_allclose(per_image["relative_error"], error.numpy(), rtol=1e-3)
    np.testing.assert_allclose(per_image["cosine"], torch.cosine_similarity(again, stored).numpy(), rtol=1e-4)


def test_equal_runs_write_equal_bytes(made: Experiment, output: Path, tmp_path: Path) -> None:
    scored(made, tmp_path)
    names = sorted(path.relative_to(output) for path in output.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for name in names:
        assert (output / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_every_promised_file_is_there(output: Path) -> None:
    names = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    pictures = {f"plots/images/{name}.png" for name in ("best", "median", "worst", "channels")}
    tables = {f"plots/{name}.csv" for name in ("psnr_histogram", "ssim_histogram", "octaves")}
    samples = {f"reconstructions/{k:02}_{kind}.png" for k in range(7) for kind in ("original", "reconstruction")}
    assert names == {"metrics.json", "protocol.json", "per_image.csv"} | pictures | tables | samples


def test_saved_samples_are_the_pixels(output: Path, protocol: dict[str, Any], per_image: pd.DataFrame, images) -> None:
    assert protocol["reconstructions"] == list(per_image["image"])  # all 7, of at most 8
    for k, (prediction, target) in enumerate(zip(*images, strict=True)):
        for kind, image in (("original", target), ("reconstruction", prediction)):
            saved = np.asarray(Image.open(output / "reconstructions" / f"{k:02}_{kind}.png"))
            levels = (image * 255).permute(1, 2, 0).numpy()  # in batches of another size, so equal but for rounding
            np.testing.assert_allclose(saved, levels, rtol=0, atol=0.501)


def test_the_protocol_names_what_the_numbers_are_made_of(protocol: dict[str, Any], made: Experiment) -> None:
    weights = protocol["features"]["vgg16.block1"]["backbone"]["weights"]
    assert weights["kind"] == "random"
    assert len(weights["sha256"]) == 64
    assert protocol["data"]["fingerprint"] == made.data().fingerprint
    assert protocol["runtime"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert set(protocol["conventions"]) >= {"psnr", "ssim", "lpips", "bicubic", "jpeg", "consistency"}
    assert protocol["not_computed"] == {
        "lpips": f"AlexNet's {ALEXNET_FILE} is not in torchvision's cache; run `python -m stages weights lpips`"
    }


def test_no_file_names_this_machine(output: Path, made: Experiment) -> None:
    for path in output.rglob("*.*"):
        if path.suffix in (".json", ".csv"):
            assert str(made.root) not in path.read_text()
            assert str(Path.home()) not in path.read_text()


def test_decoders_share_a_protocol_and_other_photographs_do_not(
    metrics: dict[str, Any], protocol: dict[str, Any], linear_output: Path
) -> None:
    same = json.loads((linear_output / "protocol.json").read_text())
    assert differences(protocol, same) == []
    assert json.loads((linear_output / "metrics.json").read_text())["protocol"] == metrics["protocol"]
    changed = {**same, "test_pixels": "0" * 64}
    assert differences(protocol, changed) == [f"test_pixels ({protocol['test_pixels'][:12]}… against 000000000000…)"]
    assert identity(changed) != metrics["protocol"] == identity(protocol)


def test_lpips_with_weights_in_torchvisions_cache(
    made: Experiment, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    state = {f"features.{key}": value for key, value in torchvision.models.alexnet().features.state_dict().items()}
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub/checkpoints" / ALEXNET_FILE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = scored(made, tmp_path / "metrics")
    package = load_lpips().network  # the lpips package's own module
    with torch.no_grad():
        expected = package(images[0] * 2 - 1, images[1] * 2 - 1).flatten()
    table = pd.read_csv(tmp_path / "metrics/per_image.csv")
    np.testing.assert_allclose(table["lpips"], expected.numpy(), rtol=1e-3)
    assert result["lpips"]["mean"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert json.loads((tmp_path / "metrics/protocol.json").read_text())["not_computed"] == {}


def test_without_its_weights_lpips_is_null(metrics: dict[str, Any], per_image: pd.DataFrame) -> None:
    assert metrics["lpips"] is None
    assert "lpips" not in per_image


def test_links_into_a_cache_keep_their_bytes(made: Experiment, output: Path, tmp_path: Path) -> None:
    """After `dvc repro` every file in metrics is a hard link, mode 0444, into DVC's cache."""
    metrics, cache = tmp_path / "metrics", tmp_path / "cache"
    shutil.copytree(output, metrics)
    write_report(metrics)
    (metrics / "reconstructions/99_original.png").write_bytes(b"of a larger split")
    before = {}
    for number, path in enumerate(sorted(path for path in metrics.rglob("*") if path.is_file())):
        cache.mkdir(exist_ok=True)
        path.chmod(0o444)
        os.link(path, cache / str(number))
        before[cache / str(number)] = path.read_bytes()
    changed = made.params.model_copy(update={"evaluate": made.params.evaluate.model_copy(update={"strips": 1})})
    linear = experiment("linear")
    evaluate(changed, linear.data(), linear.paths(metrics=metrics), CPU)
    write_report(metrics)
    assert {path: path.read_bytes() for path in before} == before
    assert (metrics / "metrics.json").read_bytes() != (output / "metrics.json").read_bytes()
    assert not (metrics / "reconstructions/99_original.png").exists()
    assert not [path for path in metrics.rglob("*") if path.name.endswith(".part")]


def test_other_lpips_weights_are_another_protocol(protocol: dict[str, Any]) -> None:
    one, two = ({**protocol, "lpips_weights": digit * 64} for digit in "12")
    assert differences(one, two) == ["lpips_weights (111111111111… against 222222222222…)"]
    assert identity(one) != identity(two)
    others = {"code": {}, "runtime": {}, "model": {}, "features": {}, "data": {}, "not_computed": {}}
    assert identity({**protocol, **others}) == identity(protocol)


@needs_gpu
def test_the_gpu_scores_alike(made: Experiment, metrics: dict[str, Any], tmp_path: Path) -> None:
    device = torch.device("cuda")
    result = evaluate(made.params, made.data(), made.paths(metrics=tmp_path), device)
    assert result["psnr"]["mean"] == pytest.approx(metrics["psnr"]["mean"], abs=0.01)
    assert result["ssim"]["mean"] == pytest.approx(metrics["ssim"]["mean"], abs=1e-3)
