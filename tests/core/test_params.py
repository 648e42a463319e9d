"""params.yaml: every mistake a user makes gets its exact sentence, before any work."""

import copy
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.former import FORMER
from pipeline.core.params import load_params
from pipeline.core.section import did_you_mean
from pipeline.core.sources import Source
from stages.loading import load_checked
from stages.networks import check_networks

ROOT = Path(__file__).parents[2]

MISTAKES = {
    "decoder=wavlet": "params.yaml: decoder = 'wavlet' is unknown (did you mean 'wavelet'?); choose one of: "
    "attention, frequency_aware, linear, patch_transformer, residual, transposed_conv, wavelet",
    "backbone=vgg61": "params.yaml: backbone = 'vgg61' is unknown (did you mean 'vgg16'?); choose one of: "
    "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, pvt_v2_b2, resnet34, resnet50, vgg16, vit_base, "
    "vit_small",
    "layer=stage9": "params.yaml: layer = 'stage9' is unknown (did you mean 'stage5'?); choose one of: "
    "stage1, stage2, stage3, stage4, stage5 (or add it to backbones.efficientnet_lite0.layers)",
    "loss=huber": "params.yaml: loss = 'huber' is unknown; choose one of: hybrid, lpips, mse, perceptual, ssim_l1",
    "dataset=coco": "params.yaml: dataset = 'coco' is unknown; choose one of: "
    "celeba_hq, div2k, folder, imagenet_val, sample",
    "train.protocol=quick": (
        "params.yaml: train.protocol = 'quick' is unknown; choose one of: fast, published, thorough"
    ),
    "train.warmstart=linear": "params.yaml: unknown key 'train.warmstart' (did you mean 'warm_start'?)",
    "backbones.vgg16.wieghts=random": "params.yaml: unknown key 'backbones.vgg16.wieghts' (did you mean 'weights'?)",
    "seed=1.5": "params.yaml: seed = 1.5: must be a whole number",
    "seed=-1": "params.yaml: seed = -1: must be at least 0",
    "backbones.vgg16.layers=block1": "params.yaml: backbones.vgg16.layers = 'block1': must be a list (write [block1])",
    "backbones.vgg16.weights=''": "params.yaml: backbones.vgg16.weights = '': must not be empty",
    "protocols.fast.epochs=0": "params.yaml: protocols.fast.epochs = 0: must be at least 1",
    "protocols.fast.learning_rate='1e-4'": "params.yaml: protocols.fast.learning_rate = '1e-4': "
    "must be a number (write 1e-4 or 0.0001 without quotes)",
    "prepare.resize=stretch": "params.yaml: prepare.resize = 'stretch' is unknown; choose one of: squash, short_side",
    "prepare.crop=300": "params.yaml: prepare.crop = 300 is larger than prepare.size = 256; "
    "a crop must fit into the stored image",
    "fusion=concat": "params.yaml: fusion = 'concat' needs a second source; name several layers (layer: all), or set "
    "ensemble.second.backbone and ensemble.second.layer, or fusion: none",
    "layer=all": "params.yaml: layer = 'all' names 5 layers, and decoder = 'residual' takes one feature map; "
    "set fusion: residual, or another one, or decoder: linear",
    "layer=stage1+stage9": "params.yaml: layer = 'stage9' is unknown (did you mean 'stage5'?); choose one of: "
    "stage1, stage2, stage3, stage4, stage5 (or add it to backbones.efficientnet_lite0.layers); several are joined "
    "by +, and last2 or all are names too",
    "layer=last6": "params.yaml: layer = 'last6' is unknown; choose one of: "
    "stage1, stage2, stage3, stage4, stage5 (or add it to backbones.efficientnet_lite0.layers)",
    "losses.mse.mse=0.0": "params.yaml: losses.mse = {'mse': 0.0} has no term above 0; give at least one term a weight",
    "losses.mse.mse=.inf": "params.yaml: losses.mse.mse = inf: must be finite",
    "ensemble.second.layer=block3": "params.yaml: ensemble.second.layer = 'block3' has no network; "
    "set ensemble.second.backbone, or layer: none",
    "protocols.published.warmup=0.1": "params.yaml: protocols.published.warmup = 0.1 has no meaning with "
    "schedule: plateau; set it to 0.0",
    "losses.mse.mse=-1": "params.yaml: losses.mse.mse = -1: must be at least 0.0",
}


@pytest.mark.parametrize(("override", "sentence"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_gets_its_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load_params(ROOT / "params.yaml", [override])
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    {
        "store.format=zar": "params.yaml: store.format = 'zar' is unknown (did you mean 'zarr'?); "
        "choose one of: hdf5, zarr",
        "decoders.linear.kernle=3": "params.yaml: unknown key 'decoders.linear.kernle' (did you mean 'kernel'?)",
        "decoders.residual.dilations=2": "params.yaml: decoders.residual.dilations = 2: must be a list (write [2])",
        "decoders.residual.dilations=[]": "params.yaml: decoders.residual.dilations = []: must not be empty",
        "datasets.folder.train=1e5": "params.yaml: datasets.folder.train = 100000.0: must be a text (write it in "
        "quotes when YAML takes it for something else)",
        "datasets.folder.train=true": "params.yaml: datasets.folder.train = True: must be a text (write it in "
        "quotes when YAML takes it for something else)",
        "decoders.nosuch={}": "params.yaml: decoders = 'nosuch' is unknown; choose one of: "
        "attention, frequency_aware, linear, patch_transformer, residual, transposed_conv, wavelet",
        "losses.mine={mae: 1.0}": "params.yaml: losses.mine = 'mae' is unknown "
        "(did you mean 'mse'?); choose one of: features, l1, lpips, mse, ssim",
    }.items(),
)
def test_options_of_parts_that_are_not_chosen_are_checked_too(override: str, sentence: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load_checked(ROOT / "params.yaml", [override])
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("swin_tiny", "swin_tiny_patch4_window7_224"),
        ("swin_tiny_patch4_window7", "swin_tiny_patch4_window7_224"),
        ("swin_tinny_patch4_window7_224", "swin_tiny_patch4_window7_224"),
        ("swin_s3_tinny_224", "swin_s3_tiny_224"),
    ],
)
def test_a_name_cut_short_is_completed_before_it_is_corrected(typed: str, meant: str) -> None:
    known = [
        "swin_s3_tiny_224",
        "swin_tiny_patch4_window7_224",
        "swin_tiny_patch4_window7_224_of_another_size",
        "vgg16",
    ]
    assert did_you_mean(typed, known) == f" (did you mean '{meant}'?)"
    assert did_you_mean("", known) == ""
    assert did_you_mean("nothing_like_it", known) == ""


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ParamsError) as caught:
        load_params(ROOT / "params.yaml", ["decoder=nosuch", "loss=nosuch"])
    assert len(str(caught.value).splitlines()) == 2


def test_the_shipped_file_is_valid() -> None:
    params = load_checked(ROOT / "params.yaml", [])
    assert params.sources == (Source("efficientnet_lite0", "stage1"),)


def test_the_published_protocol_is_the_literatures() -> None:
    """Its plateau (factor 0.5, patience 5, down to 1e-7) is the fitter's own."""
    assert load_params(ROOT / "params.yaml", ["train.protocol=published"]).recipe.model_dump() == {
        "optimizer": "adam",
        "learning_rate": 1e-4,  # YAML 1.2: a number, not a text
        "schedule": "plateau",
        "warmup": 0.0,
        "batch_size": 4,
        "epochs": 30,
        "early_stopping": 15,
        "gradient_clip": 0.0,
        "ema": 0.0,
    }


def test_what_is_chosen_is_asked_for_by_its_name() -> None:
    """So that only the schema knows its place in params.yaml."""
    indexed = re.compile(
        r"params(?:\(.*\))?\.(?:datasets|backbones|decoders|fusions|losses|protocols|refiners)(?:\[|\.get\()"
    )
    assert indexed.search("params" + '.decoders["linear"]')
    files = [file for top in ("pipeline", "stages", "benchmarks", "tests") for file in (ROOT / top).rglob("*.py")]
    found = {str(file.relative_to(ROOT)) for file in files if indexed.search(file.read_text())}
    assert found == set()


SHIPPED = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")

# An entry that the user may add or remove; its own keys are required. Without a term of its own a loss is refused.
REMOVABLE = {
    "datasets.sample": "dataset = 'sample' is unknown",
    "backbones.none": None,
    "fusions.none": "fusion = 'none' is unknown",
    "refiners.none": "two_stage.refine = 'none' is unknown",
    "losses.mse.mse": "losses.mse = {} has no term above 0; give at least one term a weight",
    "losses.lpips.lpips": "losses.lpips = {} has no term above 0",
    "losses.hybrid.mse": None,
    "losses.hybrid.lpips": None,
    "losses.ssim_l1.l1": None,
    "losses.ssim_l1.ssim": None,
    "losses.perceptual.mse": None,
    "losses.perceptual.features": None,
    **{f"backbones.efficientnet_lite{size}.seed": None for size in range(3)},  # trained weights draw nothing
}
UNCHOSEN = (
    "datasets.folder",
    "backbones.vit_base",
    "decoders.wavelet",
    "fusions.concat",
    "losses.hybrid",
    "protocols.published",
    "refiners.map",
)


def leaves(values: dict, path: str = "") -> Iterator[str]:
    """Dotted keys of every value that is no section, and of empty sections."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def without(key: str, tmp_path: Path) -> Path:
    """A params.yaml that lacks `key`."""
    values = copy.deepcopy(SHIPPED)
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    del section[last]
    YAML().dump(values, tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in leaves(SHIPPED) if key not in REMOVABLE])
def test_each_key_is_required_and_a_missing_one_is_named_with_the_remedy(key: str, tmp_path: Path) -> None:
    """No value that makes numbers stands in the code."""
    with pytest.raises(ParamsError) as caught:
        load_checked(without(key, tmp_path), [])
    assert str(caught.value).startswith("params.yaml: ")
    assert "\n" not in str(caught.value)
    section, _, name = key.rpartition(".")
    assert re.search(rf"{re.escape(key)}\b.* is missing.*; add ({name}: .+|it) ?", str(caught.value))
    if section.partition(".")[0] in ("decoders", "fusions", "refiners") or (name in ("seed", "weights") and section):
        shipped = "random" if name == "weights" else reduce(getitem, key.split("."), SHIPPED)
        value = json.dumps(FORMER.get(section, {}).get(name, shipped))
        assert f"add {name}: {value}" in str(caught.value)


@pytest.mark.parametrize("key", REMOVABLE)
def test_entries_of_the_users_own_may_go_when_nothing_asks_for_them(key: str, tmp_path: Path) -> None:
    sentence = REMOVABLE[key]
    if sentence is None:
        load_checked(without(key, tmp_path), [])
    else:
        with pytest.raises(ParamsError) as caught:
            load_checked(without(key, tmp_path), [])
        assert sentence in str(caught.value).splitlines()[0]


@pytest.mark.parametrize("section", UNCHOSEN)
def test_a_whole_section_that_nothing_chooses_may_go(section: str, tmp_path: Path) -> None:
    load_checked(without(section, tmp_path), [])


def test_only_random_weights_need_a_seed() -> None:
    """Not those of a file: nothing is drawn."""
    entry = "backbones.mine={library: timm, model: test_vit, layers: [block0], weights: %s}"
    assert load_params(ROOT / "params.yaml", [entry % "imagenet"]).backbone_params("mine").seed is None
    with pytest.raises(ParamsError, match=r"backbones\.mine\.seed' is missing; add seed: 0"):
        load_params(ROOT / "params.yaml", [entry % "random"])


def test_an_ensemble_has_its_sources_in_slot_order() -> None:
    slots = ["ensemble.second={backbone: resnet34, layer: layer1}", "fusion=weighted"]
    params = load_params(ROOT / "params.yaml", slots)
    assert params.sources == (Source("efficientnet_lite0", "stage1"), Source("resnet34", "layer1"))


@pytest.mark.parametrize(
    ("layer", "stages"),
    [
        ("all", (1, 2, 3, 4, 5)),
        ("last2", (4, 5)),
        ("stage5+stage1", (1, 5)),
        ("stage2+last2", (2, 4, 5)),
        ("last1", (5,)),
    ],
)
def test_a_layer_may_be_several(layer: str, stages: tuple[int, ...]) -> None:
    params = load_params(ROOT / "params.yaml", [f"layer={layer}", "decoder=linear"])
    assert params.sources == tuple(Source("efficientnet_lite0", f"stage{number}") for number in stages)


def test_slots_of_an_ensemble_have_several_layers_too() -> None:
    slots = ["ensemble.second={backbone: vit_small, layer: last2}", "fusion=routed", "layer=stage1+stage2"]
    names = "efficientnet_lite0.stage1 efficientnet_lite0.stage2 vit_small.block10 vit_small.block11"
    assert [str(each) for each in load_params(ROOT / "params.yaml", slots).sources] == names.split()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["layer=stage1+all", "decoder=linear"], "names a source twice"),
        (["layer=all", "decoder=linear", "evaluate.refine=map"], "one source, and there are 5"),
        (["layer=last1", "fusion=sum"], "fusion = 'sum' needs a second source"),
    ],
)
def test_layers_that_exclude_something_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        load_params(ROOT / "params.yaml", overrides)


def test_sources_are_sorted_by_number_not_by_letter() -> None:
    names = ["a.block2", "a.block10", "b.features.3.conv.1", "b.features.10", "b.norm"]
    assert [str(each) for each in sorted(map(Source.parse, reversed(names)))] == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: [1", "is not valid YAML"),
        ("", "holds no keys"),
        ("seed: 1\nseed: 2\n", "is not valid YAML"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=sentence) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="is missing"):
        load_params(tmp_path / "params.yaml")


def test_a_typo_fails_fast_and_changes_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    start = time.perf_counter()
    command = [sys.executable, "-m", "stages", "extract", "--set", "decoder=nosuch"]
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("error: params.yaml: decoder = 'nosuch' is unknown")
    assert "Traceback" not in run.stderr
    assert "torch" not in run.stderr
    assert time.perf_counter() - start < 30  # a hang, not a bar: benchmarks measure
    assert sorted(p.name for p in tmp_path.iterdir()) == ["params.yaml"]


def test_scoring_needs_no_weights_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="cannot be computed here"):
        load_checked(ROOT / "params.yaml", ["loss=hybrid"])
    assert load_checked(ROOT / "params.yaml", ["loss=hybrid"], loss=False).loss == "hybrid"


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_loss_without_its_weights_fails_fast_and_changes_nothing(tmp_path: Path, stage: str) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = [sys.executable, "-v", "-m", "stages", stage, "--set", "loss=hybrid", "--set", "prepare.crop=99"]
    environment = {"PYTHONPATH": str(ROOT), "TORCH_HOME": str(tmp_path / "cache")}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert (
        "error: params.yaml: loss = 'hybrid' cannot be computed here: LPIPS needs AlexNet's weights alexnet-owt-"
        f"7be5be79.pth, which are not in {tmp_path / 'cache/hub/checkpoints'}; run `python -m stages weights lpips`, "
        "or, without network here, run it with --to DIR on a connected machine, then with --from DIR here"
    ) in run.stderr.splitlines()
    imported = {line.split()[1] for line in run.stderr.splitlines() if line.startswith("import '")}
    assert "'pipeline.core.params'" in imported  # -v names every module
    assert "'torch'" not in imported
    assert sorted(p.name for p in tmp_path.iterdir()) == ["params.yaml"]


def test_networks_that_are_not_chosen_are_checked_too() -> None:
    params = load_checked(ROOT / "params.yaml", ["backbones.resnet34.layers=[layer1, layer9]"])
    with pytest.raises(ParamsError, match=r"layer9.*layer1, layer2, layer3, layer4"):
        check_networks(params)


def test_a_crop_that_only_an_unused_network_refuses_is_fine() -> None:
    check_networks(load_checked(ROOT / "params.yaml", ["prepare.crop=208", "backbones.vgg16.layers=[block1]"]))


def test_the_order_of_the_list_is_the_depth_of_layers() -> None:
    listed = "backbones.efficientnet_lite0.layers=[conv_stem, blocks.0, bn2]"
    params = load_params(ROOT / "params.yaml", [listed, "layer=bn2+conv_stem", "decoder=linear"])
    assert [each.layer for each in params.sources] == ["conv_stem", "bn2"]
    assert sorted({*params.sources}, key=params.depth) == list(params.sources)
