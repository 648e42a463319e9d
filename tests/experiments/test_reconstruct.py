"""Any photograph through network and decoder: what is written, what is refused, and in which words."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from matplotlib import colormaps
from messages import says
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_experiment import CPU, PARAMS, experiment
from small_reconstruction import made, run, three_photographs
from typer.testing import CliRunner

from pipeline.backbones.normalization import IMAGENET_MEAN, IMAGENET_STD
from pipeline.core.errors import CheckpointError, DataError
from pipeline.core.sources import Inputs
from pipeline.evaluation.run import evaluate
from pipeline.experiments.reconstruction import reconstruct
from pipeline.metrics.alexnet import ALEXNET_FILE
from pipeline.metrics.similarity import load_lpips
from pipeline.models.common.inverter import load_inverter

pytestmark = pytest.mark.slow


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return three_photographs(tmp_path)


def test_a_photograph_goes_through_the_real_network_and_decoder(photographs: Path, tmp_path: Path) -> None:
    result = run(photographs / "cat.png", output=tmp_path / "out")
    squashed = Image.fromarray(data.chelsea()).resize((72, 72), Image.Resampling.BICUBIC)
    crop = np.asarray(squashed)[4:68, 4:68]  # the centre, as the test split is cut
    target = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
    torch.manual_seed(0)
    network = torchvision.models.vgg16().features[:5].eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        inputs = Inputs((network((target - mean) / std),))
        expected = load_inverter(made().models, CPU)(inputs)[0].permute(1, 2, 0).numpy()
    saved = np.asarray(Image.open(tmp_path / "out/cat_reconstruction.png"))
    np.testing.assert_allclose(saved / 255, expected, atol=0.6 / 255)
    assert result.scores[0]["psnr"] == pytest.approx(
        peak_signal_noise_ratio(crop / 255.0, expected, data_range=1), abs=1e-3
    )
    original, decoded, error, similarity = (
        np.asarray(Image.open(tmp_path / "out/cat.png"))[
            20 : 20 + 192 : 3, left : left + 192 : 3
        ]  # three times as large
        for left in (6, 204, 402, 600)
    )
    np.testing.assert_array_equal(original, crop)
    np.testing.assert_array_equal(decoded, saved)
    np.testing.assert_allclose(error, np.clip(5 * np.abs(255 * expected - crop), 0, 255), atol=2)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    local = structural_similarity(crop / 255, expected.astype(float), channel_axis=2, full=True, **settings)[1]
    colours = 255 * colormaps["cividis"](local.mean(axis=2)[5:-5, 5:-5].clip(0, 1))[..., :3]
    np.testing.assert_allclose(similarity[5:-5, 5:-5], colours, atol=4)  # a step of the colour map


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_a_test_photograph_gets_the_scores_of_evaluate(stored: str, tmp_path: Path) -> None:
    """So its features are rounded as they were in the store."""
    trained = experiment("linear", f"store.dtype={stored}")
    where = (trained.data(), trained.paths(metrics=tmp_path), CPU)
    evaluate(trained.params, *where)
    expected = pd.read_csv(tmp_path / "per_image.csv").set_index("image")
    root = Path(trained.params.dataset_options["root"])
    other = {"dtype": "bfloat16"}  # what params.yaml says by now is of no matter
    now = trained.params.model_copy(update={"store": trained.params.store.model_copy(update=other)})
    for image in expected.index[:3]:
        result = reconstruct([str(root / image)], trained.models, now, tmp_path / "out", CPU)
        assert result.scores[0]["psnr"] == pytest.approx(expected.loc[image, "psnr"], abs=2e-3)


def test_bad_files_are_all_listed_and_good_ones_finished(photographs: Path, tmp_path: Path) -> None:
    (photographs / "empty.png").touch()
    (photographs / "text.jpg").write_text("no picture")
    Image.new("L", (90, 90)).save(photographs / "grey.png")
    with pytest.raises(DataError) as refusal:
        run(photographs, output=tmp_path / "out")
    says(
        refusal.value,
        "3 of 6 photographs cannot be used",
        f"the good ones are in {tmp_path / 'out'}",
        "--set prepare.on_bad_image=skip",
        f"{photographs / 'empty.png'}: is empty",
        f"{photographs / 'grey.png'}: is grayscale",
        f"{photographs / 'text.jpg'}: is no image",
    )
    assert len(pd.read_csv(tmp_path / "out/scores.csv")) == 3


def test_bad_files_can_be_skipped_and_grey_ones_converted(photographs: Path, tmp_path: Path) -> None:
    (photographs / "empty.png").touch()
    Image.new("L", (90, 90), 120).save(photographs / "grey.png")
    rules = made().params.prepare.model_copy(update={"on_bad_image": "skip", "non_rgb": "convert"})
    result = run(photographs, output=tmp_path / "out", params=made().params.model_copy(update={"prepare": rules}))
    assert len(result.scores) == 4
    assert result.bad == [(photographs / "empty.png", "is empty (0 bytes)")]


@pytest.mark.parametrize("rule", ["skip", "stop"])
def test_nothing_but_bad_files_is_an_error_under_either_rule(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.__main__ import main

    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    arguments = ["reconstruct", str(tmp_path / "*.png"), "--model", str(made().models), "--out", str(tmp_path / "out")]
    settings = ["--device", "cpu", "--set", f"prepare.on_bad_image={rule}"]
    monkeypatch.setattr(sys, "argv", ["stages", *arguments, *settings])
    with pytest.raises(SystemExit) as end:
        main()
    says(
        end.value.code,
        "error: 2 of 2 photographs cannot be used",
        f"{tmp_path / 'a.png'}: is empty",
        f"{tmp_path / 'b.png'}: is empty",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["absent.png", "*.nothing"])
def test_nothing_found(name: str, photographs: Path, tmp_path: Path) -> None:
    pattern = photographs / name
    with pytest.raises(DataError) as refusal:
        run(pattern, output=tmp_path / "out")
    says(refusal.value, f"'{pattern}'", "no file", "give photographs")


def test_other_weights_than_in_training_are_refused(photographs: Path, tmp_path: Path) -> None:
    entry = made().params.backbone_params("vgg16").model_copy(update={"seed": 7})
    params = made().params.model_copy(update={"backbones": {**made().params.backbones, "vgg16": entry}})
    message = (
        r"models was trained behind torchvision vgg16, random \(seed 0\) weights \w{12}…, params.yaml now gives "
        r"torchvision vgg16, random \(seed 7\) weights \w{12}…; set backbones.vgg16 as it was, or train again$"
    )
    with pytest.raises(CheckpointError, match=message):
        run(photographs, output=tmp_path / "out", params=params)


def test_a_network_that_params_lack_is_refused(photographs: Path, tmp_path: Path) -> None:
    backbones = {name: entry for name, entry in made().params.backbones.items() if name != "vgg16"}
    params = made().params.model_copy(update={"backbones": backbones})
    with pytest.raises(CheckpointError, match=r"inverts vgg16, which params.yaml lacks; add it under backbones$"):
        run(photographs, output=tmp_path / "out", params=params)


def test_a_model_that_does_not_say_how_its_features_were_stored(photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(made().models, tmp_path / "models")
    description = json.loads((tmp_path / "models/model.json").read_text())
    del description["stored"]
    (tmp_path / "models/model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"an older version, .* how features were stored; train again$"):
        reconstruct([str(photographs)], tmp_path / "models", made().params, tmp_path / "out", CPU)


def test_photographs_are_cut_as_in_training_whatever_params_say_now(photographs: Path, tmp_path: Path) -> None:
    rules = made().params.prepare.model_copy(update={"size": 256, "crop": 224, "resize": "short_side"})
    now = run(
        photographs / "cat.png", output=tmp_path / "a", params=made().params.model_copy(update={"prepare": rules})
    )
    then = run(photographs / "cat.png", output=tmp_path / "b")
    assert now.scores[0]["psnr"] == then.scores[0]["psnr"]


def test_lpips_where_its_weights_are(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "lpips" not in run(photographs / "cat.png", output=tmp_path / "without").scores[0]
    torch.manual_seed(3)
    state = {f"features.{key}": value for key, value in torchvision.models.alexnet().features.state_dict().items()}
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub/checkpoints" / ALEXNET_FILE)
    result = run(photographs / "cat.png", output=tmp_path / "with")
    tiles = np.asarray(Image.open(tmp_path / "with/cat.png"))[20 : 20 + 192 : 3] / 255  # 64 pixels, enlarged
    original, saved = (
        torch.from_numpy(tiles[:, left : left + 192 : 3]).permute(2, 0, 1)[None].float() for left in (6, 6 + 198)
    )
    with torch.no_grad():
        expected = load_lpips().network(saved * 2 - 1, original * 2 - 1).item()
    assert result.scores[0]["lpips"] == pytest.approx(expected, rel=0.02)  # the saved picture is rounded to 8 bits


def test_without_out_pictures_go_to_the_work_folder(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.__main__ import app

    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    monkeypatch.chdir(tmp_path)
    arguments = ["reconstruct", str(photographs / "cat.png"), "--model", str(made().models), "--device", "cpu"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / ".work/reconstructions/cat.png").is_file()


def test_the_command(photographs: Path, tmp_path: Path) -> None:
    from stages.__main__ import app

    shutil.copytree(made().models, tmp_path / "models")
    out = tmp_path / "out"
    arguments = ["reconstruct", str(photographs / "cat.png"), "--model", str(tmp_path / "models"), "--out", str(out)]
    answer = CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)
    assert answer.exit_code == 0
    table = pd.read_csv(out / "scores.csv")
    assert f"{out / 'cat.png'}: {table['psnr'][0]:.2f} dB, SSIM {table['ssim'][0]:.4f}" in answer.output
    assert json.loads((tmp_path / "models/model.json").read_text())["prepare"]["crop"] == 64
