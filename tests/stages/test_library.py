"""docs/library.md, its own blocks, typed in another directory than the clone's, with the clone installed by make."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from project import ROOT, small_project, write_photographs
from skimage.metrics import peak_signal_noise_ratio

from pipeline.core.params import load_params
from pipeline.core.sources import Inputs
from pipeline.models.common.inverter import load_inverter
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

SECTION = re.compile(r"^## (.+?)\n.*?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = dict(SECTION.findall((ROOT / "docs/library.md").read_text()))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with a clone that has computed something, and photographs."""
    home = tmp_path_factory.mktemp("home")
    project = small_project(home / "feature-inversion")
    project.set({"backbone": "efficientnet_lite0", "layer": "stage1", "decoder": "linear"})
    project.make_environment()
    project.run("make", "setup")
    for stage in ("prepare", "prior", "extract", "train"):
        project.run("python", "-m", "stages", stage)
    write_photographs(home / "photographs", 3)
    return home


def typed(home: Path, section: str) -> tuple[str, Path]:
    """What the block under a heading prints, and the directory in which it is typed."""
    elsewhere = home / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    run = subprocess.run(
        [home / "feature-inversion/.venv/bin/python", "-c", BLOCKS[section]],
        cwd=elsewhere,
        env={"HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout, elsewhere


def lines_of_code(block: str) -> int:
    """Statements that are no imports."""
    return sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(block).body)


def test_every_example_is_five_lines() -> None:
    assert len(BLOCKS) == 5
    assert {name: lines_of_code(block) for name, block in BLOCKS.items() if lines_of_code(block) > 5} == {}


def test_features_of_photographs(home: Path) -> None:
    printed, _ = typed(home, "Features of my photographs")
    params = load_params(home / "feature-inversion/params.yaml")
    shape = open_store(home / "feature-inversion/features/efficientnet_lite0/stage2").shape
    found = ast.literal_eval(printed)
    assert found["stage2"] == (3, shape.channels, shape.height, shape.width)
    assert tuple(found) == params.backbone_params("efficientnet_lite0").layers


def test_a_reconstruction(home: Path) -> None:
    _, elsewhere = typed(home, "A reconstruction from `models/`")
    found = np.asarray(Image.open(elsewhere / "reconstruction.png")).astype(float)
    original = Image.open(home / "photographs/photograph_000.png").resize((72, 72), Image.Resampling.BICUBIC)
    assert peak_signal_noise_ratio(np.asarray(original)[4:68, 4:68].astype(float), found, data_range=255) > 20


def test_scores_of_two_images(home: Path) -> None:
    printed, _ = typed(home, "The scores of two images")
    first, second = (np.asarray(Image.open(home / f"photographs/photograph_00{n}.png")) for n in (0, 1))
    expected = peak_signal_noise_ratio(first, second)
    assert ast.literal_eval(printed)["psnr"] == pytest.approx(expected, abs=1e-4)


def test_a_torch_dataset(home: Path) -> None:
    printed, _ = typed(home, "A store as a torch Dataset")
    sizes = re.findall(r"torch.Size\(\[(\d+), 16, 32, 32\]\) torch.Size\(\[(\d+), 3, 64, 64\]\)", printed)
    data = PreparedData.open(home / "feature-inversion/data/prepared")
    assert sum(int(features) for features, _ in sizes) == len(data.rows("train"))
    assert all(features == crops for features, crops in sizes)


def test_an_array(home: Path) -> None:
    printed, _ = typed(home, "A store as an (N, d) array")
    data = PreparedData.open(home / "feature-inversion/data/prepared")
    names = [data.image_ids[image] for image in data.image[data.rows("test")]]
    assert printed == f"({len(names)}, {16 * 32 * 32}) {names}\n"


def test_a_reconstruction_from_features_alone(home: Path) -> None:
    """The sentence below the example."""
    clone = home / "feature-inversion"
    store = open_store(clone / "features/efficientnet_lite0/stage1")
    features = torch.from_numpy(store.read(np.array([0, 5])))
    images = load_inverter(clone / "models", torch.device("cpu"))(Inputs((features,)))
    assert images.shape == (2, 3, 64, 64)
