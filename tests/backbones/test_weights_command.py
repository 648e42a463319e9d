"""`python -m stages weights`: published weights carried to a machine without network."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
import torch
from messages import says
from torchvision.models import AlexNet_Weights
from typer.testing import CliRunner
from weight_caches import VIT, VIT_REPOSITORY, entry, fresh, place_hub, place_torch, use_caches, use_empty_caches

from pipeline.backbones.backbone import load_backbone
from pipeline.backbones.packaged import PACKAGES
from pipeline.backbones.timm_networks import outline
from pipeline.core.errors import ParamsError, WeightsError
from stages.__main__ import app

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
DOWNLOAD = torch.hub.download_url_to_file  # before `use_empty_caches` takes the network away


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_empty_caches(tmp_path / "caches", monkeypatch)


TINY = ["--set", "backbones.tiny={library: timm, model: test_vit, weights: imagenet, layers: [block0]}"]


def stage(*arguments: str) -> str:
    """Output of the command; an error of the pipeline is raised, as `main` would catch it."""
    result = CliRunner().invoke(app, ["weights", *arguments, "--params", str(ROOT / "params.yaml"), *TINY])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_weights_are_carried_to_a_machine_without_network(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = place_hub(caches, VIT_REPOSITORY, fresh("test_vit", "timm").state_dict())
    blob = vit.parents[2] / "blobs" / "abcd"  # the hub keeps contents apart and links to them
    blob.parent.mkdir()
    vit.rename(blob)
    vit.symlink_to(blob)
    alexnet = place_torch(caches, "alexnet-owt-7be5be79.pth", {"features.0.bias": torch.ones(64)})
    stick = tmp_path / "stick"
    output = stage("tiny", "lpips", "--to", str(stick))
    assert output.count("wrote ") == 3  # two files, and the hub's note of which commit is main
    assert not any(path.is_symlink() for path in stick.rglob("*"))

    use_caches(tmp_path / "elsewhere", monkeypatch)
    assert "tiny: test_vit.r160_in1k, missing: model.safetensors of timm/test_vit.r160_in1k in " in stage()
    assert "to add LPIPS to scores written without it, run: dvc repro --force" in stage(
        "tiny", "lpips", "--from", str(stick)
    )
    assert "tiny: test_vit.r160_in1k, present" in stage("tiny")
    there = tmp_path / "elsewhere" / "torch" / "hub" / "checkpoints" / alexnet.name
    assert there.read_bytes() == alexnet.read_bytes()
    assert load_backbone("tiny", entry(VIT, weights="imagenet"), CPU).weights.detail == "test_vit.r160_in1k"


def test_to_downloads_what_is_missing(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, target: str, prefix: str | None) -> None:
        asked.append((url, prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    stage("lpips", "--to", str(tmp_path / "stick"))
    stage("lpips", "--to", str(tmp_path / "stick"))  # the second time it is in the cache
    assert asked == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")]
    assert (tmp_path / "stick" / "checkpoints" / "alexnet-owt-7be5be79.pth").read_bytes() == b"weights"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands at AlexNet's address, named by its hash as torch.hub has it."""
    content = io.BytesIO()
    torch.save({"features.0.bias": torch.ones(64)}, content)
    path = tmp_path / "mirror" / f"alexnet-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
    path.parent.mkdir()
    path.write_bytes(content.getvalue())
    monkeypatch.setattr(AlexNet_Weights.IMAGENET1K_V1.value, "url", path.as_uri())
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    return path


def test_a_name_alone_fetches_what_is_missing_to_where_the_library_looks(caches: Path, mirror: Path) -> None:
    assert "lpips: AlexNet, missing" in stage()
    assert not caches.exists()  # without names it only lists
    output = stage("lpips")
    assert "lpips: AlexNet_Weights.IMAGENET1K_V1, present" in output
    assert "to add LPIPS to scores written without it, run: dvc repro --force" in output
    there = caches / "torch" / "hub" / "checkpoints" / mirror.name
    assert there.read_bytes() == mirror.read_bytes()
    mirror.unlink()
    assert "dvc repro" not in stage("lpips")  # the second time nothing is asked of the network


def test_a_download_of_something_else_leaves_nothing(caches: Path, mirror: Path) -> None:
    mirror.write_bytes(b"a page that asks for a password")
    with pytest.raises(WeightsError, match=rf"^{mirror.name}, .* cannot be downloaded \(invalid hash value"):
        stage("lpips")
    assert not list((caches / "torch" / "hub" / "checkpoints").iterdir())


def test_without_network_a_name_alone_says_how_to_carry_them(caches: Path) -> None:
    with pytest.raises(WeightsError, match=r"no route to host.*`python -m stages weights lpips --to DIR`, bring"):
        stage("lpips")


def test_listing_builds_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("timm.create_model", build)
    outline.cache_clear()
    assert "tiny: test_vit.r160_in1k, missing" in stage()


def test_the_list_says_what_each_entry_asks_for(caches: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    listed = stage("--set", f"backbones.resnet50.weights={path}").splitlines()
    assert "resnet34: random, seed 0" in listed
    assert f"resnet50: a file, missing: {path}" in listed
    package = PACKAGES["tf_efficientnet_lite0"]
    assert f"efficientnet_lite0: {package.label}, present: {package.locate()}" in listed
    place_torch(caches, "alexnet-owt-7be5be79.pth", {"x": torch.ones(1)})
    path.write_bytes(b"")
    listed = stage("--set", f"backbones.resnet50.weights={path}").splitlines()
    assert f"resnet50: a file, present: {path}" in listed
    assert listed[-1].startswith("lpips: AlexNet, present: alexnet-owt-7be5be79.pth in ")
    with pytest.raises(ParamsError, match=r"backbones.vgg17 is not one of vgg16, "):
        stage("--set", "backbones.vgg17={weights: random, seed: 0, layers: [block1]}")


def test_from_a_folder_that_lacks_one_copies_nothing(caches: Path, tmp_path: Path) -> None:
    (tmp_path / "stick" / "checkpoints").mkdir(parents=True)
    (tmp_path / "stick" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"weights")
    with pytest.raises(WeightsError) as error:
        stage("lpips", "vgg16", "--from", str(tmp_path / "stick"))
    says(error.value, tmp_path / "stick", "vgg16-397923af.pth", "`python -m stages weights vgg16 --to DIR`")
    assert not caches.exists()


def test_a_folder_that_cannot_be_written(caches: Path, tmp_path: Path) -> None:
    place_torch(caches, "alexnet-owt-7be5be79.pth", {"x": torch.ones(1)})
    (tmp_path / "stick").write_text("a file, not a folder")
    with pytest.raises(WeightsError, match=r"stick/checkpoints/alexnet.*\.pth cannot be written \(.*\); free the disk"):
        stage("lpips", "--to", str(tmp_path / "stick"))


def test_the_command_says_how_it_is_used() -> None:
    with pytest.raises(
        ParamsError, match=r"^weights: names are missing; write, for example, `stages weights vgg16 lpips"
    ):
        stage("--to", "somewhere")
    with pytest.raises(ParamsError, match=r"--to and --from.*give only one"):
        stage("lpips", "--to", "somewhere", "--from", "elsewhere")
    with pytest.raises(ParamsError, match=r"^weights vgg: not in params.yaml; choose among: vgg16, .*, tiny, lpips$"):
        stage("vgg", "--to", "somewhere")
