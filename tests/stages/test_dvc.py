"""Real DVC in a real clone: which stages run after which change."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from photo_trees import div2k
from project import Project, computed_project

pytestmark = pytest.mark.slow

ALL = ["prepare", "prior", "extract@vgg16", "extract@none", "refine", "train", "evaluate"]
FIT = ["train", "evaluate"]
EPOCHS = 20


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Everything computed once and committed; the tests start from here."""
    return computed_project(tmp_path_factory.mktemp("clone") / "project")


@pytest.fixture(autouse=True)
def back_to_start(project: Project) -> Iterator[None]:
    """After each test the working tree is the committed one again, and nothing has to run for it."""
    yield
    project.run("git", "checkout", "--quiet", ".")
    project.run("git", "clean", "-qfd", "--exclude=data/raw")
    project.run("dvc", "checkout", "--quiet", "--force")


@pytest.fixture
def without_cache(project: Project, tmp_path: Path) -> Project:
    """A clone that finds the project's cache where it would find a remote."""
    clone = project.clone(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--local", "--default", "shared", str(project.root / ".dvc/cache"))
    return clone


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_features_are_linked_into_the_cache_not_copied(project: Project) -> None:
    files = [p for p in (project.root / "features/vgg16").rglob("*") if p.is_file()]
    assert files
    assert all(p.stat().st_nlink > 1 for p in files)


def test_again_runs_nothing(project: Project) -> None:
    assert project.run("dvc", "repro").ran == []


def test_another_decoder_trains_from_the_cache_and_back_runs_nothing(project: Project) -> None:
    assert project.run("dvc", "exp", "run", "-S", "decoder=residual").ran == FIT
    back = project.run("dvc", "exp", "run", "-S", "decoder=transposed_conv")
    assert back.ran == []


def test_linear_metrics_diff_plots_diff_and_show(project: Project) -> None:
    assert project.run("dvc", "exp", "run", "-S", "decoder=linear").ran == FIT
    assert "decoder.parameters" in project.run("dvc", "metrics", "diff").output
    assert "index.html" in project.run("dvc", "plots", "diff").output
    shown = project.run("dvc", "exp", "show", "--csv").output
    assert "linear" in shown


def test_another_backbone_extracts_only_what_is_missing(project: Project) -> None:
    run = project.run("dvc", "exp", "run", "-S", "backbone=resnet34", "-S", "layer=layer2")
    assert run.ran == ["extract@resnet34", "refine", *FIT]
    assert project.run("dvc", "exp", "run", "-S", "backbone=vgg16", "-S", "layer=block1").ran == []


def test_another_data_set_network_and_layer_from_photographs_to_scores(project: Project, tmp_path: Path) -> None:
    root = div2k(tmp_path / "DIV2K", train=15, test=5)
    dataset = ["-S", "dataset=div2k", "-S", f"datasets.div2k.root={root}"]
    run = project.run("dvc", "exp", "run", *dataset, "-S", "backbone=vit_small", "-S", "layer=block1")
    assert run.ran == ["prepare", "prior", "extract@vit_small", "extract@none", "refine", *FIT]
    metrics = json.loads((project.root / "metrics/metrics.json").read_text())
    assert metrics["images"] == 5
    assert metrics["psnr"]["mean"] > metrics["floors"]["mean_colour"]["psnr"]
    scored = (project.root / "metrics/per_image.csv").read_text()
    assert all(f"DIV2K_valid_HR/{i:04d}.png" in scored for i in range(801, 806))


def test_an_ensemble_extracts_only_the_missing_backbone(project: Project) -> None:
    slots = ["-S", "ensemble.second.backbone=pvt_v2_b2", "-S", "ensemble.second.layer=stage1"]
    run = project.run("dvc", "exp", "run", "-S", "fusion=weighted", *slots)
    assert run.ran == ["extract@pvt_v2_b2", *FIT]


def test_sections_and_files_of_other_decoders_do_not_matter(project: Project) -> None:
    _replace(project.root / "pipeline/models/decoders/residual.py", '"""', '"""Edited. ')
    project.set({"decoders.residual.width": 32})
    assert project.run("dvc", "repro").ran == []


def test_this_decoders_section_trains_again(project: Project) -> None:
    project.set({"decoders.transposed_conv.min_channels": 16})
    assert project.run("dvc", "repro").ran == FIT


def test_a_layer_added_extracts_that_backbone_and_keeps_the_bytes_of_its_other_layers(project: Project) -> None:
    features = project.root / "features/vgg16"
    before = {p.relative_to(features): p.read_bytes() for p in sorted(features.rglob("*")) if p.is_file()}
    project.set({"backbones.vgg16.layers": ["block1", "block2", "block3"]})
    assert project.run("dvc", "repro").ran == ["extract@vgg16", "refine", *FIT]
    assert (features / "block3").is_dir()
    for name, content in before.items():
        assert (features / name).read_bytes() == content


def test_another_layer_of_a_network_that_ran_runs_no_network(project: Project) -> None:
    assert project.run("dvc", "exp", "run", "-S", "layer=block2", "-S", "decoder=linear").ran == ["refine", *FIT]


def test_a_shard_changed_or_deleted_is_found_and_comes_back(project: Project) -> None:
    shard = next(path for path in (project.root / "features/vgg16/block1").rglob("c.*") if path.is_file())
    content = shard.read_bytes()
    for damage in (b"", None):
        shard.unlink()
        if damage is not None:
            shard.write_bytes(damage)
        assert "modified" in project.run("dvc", "status").output
        assert project.run("dvc", "repro").ran == []  # from the cache
        assert shard.read_bytes() == content


def test_an_evaluation_parameter_only_evaluates(project: Project) -> None:
    project.set({"evaluate.bootstrap": 150})
    assert project.run("dvc", "repro").ran == ["evaluate"]


def test_a_typo_stops_before_any_work_and_leaves_no_trace(project: Project) -> None:
    run = project.run("dvc", "exp", "run", "-S", "decoder=nosuch", check=False)
    assert run.code != 0
    assert "params.yaml: decoder = 'nosuch' is unknown; choose one of: attention, frequency_aware" in run.output
    assert run.ran == []
    project.run("git", "checkout", "params.yaml")
    assert project.run("git", "status", "--porcelain").output == ""
    assert "up to date" in project.run("dvc", "status").output


def states(project: Project) -> list[Path]:
    return sorted((project.root / ".work/train").glob("*/state.pt"))


def test_killed_in_training_only_the_remaining_epochs_run(project: Project, tmp_path: Path) -> None:
    project.set({"protocols.fast.epochs": EPOCHS})
    project.kill("dvc", "repro", when=lambda: bool(states(project)))
    (state,) = states(project)
    epoch = torch.load(state, weights_only=True)["progress"]["epoch"]
    assert 0 < epoch < EPOCHS
    again = project.run("dvc", "repro")
    assert again.ran == FIT
    images = json.loads((project.root / "data/prepared/manifest.json").read_text())["images"]["train"]
    assert f"train transposed_conv: {images * (EPOCHS - epoch)} images in" in again.output
    project.run("python", "-m", "stages", "train", "--models", str(tmp_path), "--metrics", str(tmp_path))
    undisturbed = (tmp_path / "model.safetensors").read_bytes()
    assert (project.root / "models/model.safetensors").read_bytes() == undisturbed


def test_a_clone_without_cache_runs_everything_to_the_same_bytes(project: Project, tmp_path: Path) -> None:
    clone = project.clone(tmp_path / "clone")
    shutil.copytree(project.root / "data/raw", clone.root / "data/raw")
    assert clone.run("dvc", "metrics", "show", "--json").code == 0
    assert "psnr.mean" in clone.run("dvc", "metrics", "diff", "HEAD~1", "HEAD").output
    assert clone.run("dvc", "repro", real=True).ran == ALL  # other processes, other hash seeds
    assert (clone.root / "metrics/metrics.json").read_bytes() == (project.root / "metrics/metrics.json").read_bytes()
    assert clone.run("git", "diff", "--stat", "--", "dvc.lock", "metrics/metrics.json").output == ""


def test_a_stage_outside_dvc_gives_the_same_result(project: Project, tmp_path: Path) -> None:
    out = ["--models", str(tmp_path), "--metrics", str(tmp_path)]
    project.run("python", "-m", "stages", "train", *out, real=True)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / name).read_bytes() == (project.root / "models" / name).read_bytes()


def test_set_overrides_one_value(project: Project, tmp_path: Path) -> None:
    options = ["--set", "decoder=linear", "--models", str(tmp_path), "--metrics", str(tmp_path)]
    project.run("python", "-m", "stages", "train", *options)
    assert json.loads((tmp_path / "model.json").read_text())["blueprint"]["decoder"] == "linear"


def test_collected_garbage_is_not_missed(without_cache: Project) -> None:
    without_cache.run("dvc", "pull")
    assert without_cache.run("dvc", "exp", "run", "-S", "decoder=linear").ran[-2:] == FIT
    without_cache.run("git", "checkout", "--quiet", ".")
    without_cache.run("dvc", "checkout", "--force")
    kept = without_cache.run("dvc", "gc", "--workspace", "--force").output
    assert "Removed" in kept
    assert without_cache.run("dvc", "repro").ran == []
    assert without_cache.run("dvc", "exp", "run", "-S", "decoder=linear").ran == FIT  # its model was garbage
