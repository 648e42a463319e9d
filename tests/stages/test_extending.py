"""Each example of docs/extending.md, added to a copy of the project by its file and its entry in params.yaml alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from project import SMALL, Project, checkout, extend, write_photographs

from pipeline.core.code import DATASETS, DECODERS, FUSIONS, files

pytestmark = pytest.mark.slow

ADDED = {  # heading → a stage that runs the file
    "A decoder": "train",
    "A fusion": "train",
    "A loss term": "train",
    "A metric": "evaluate",
    "A data set": "prepare",
    "A refiner": "refine",
    "A store format": "extract",
}
CHOSEN = {
    **SMALL,
    "dataset": "listed",
    "decoder": "shuffle",
    "fusion": "mean",
    "loss": "charbonnier",
    "ensemble.second.backbone": "vgg16",
    "ensemble.second.layer": "block2",
    "prepare.views": 1,
    "evaluate.reconstructions": 2,
    "evaluate.refine_budget": 4,
    "evaluate.refine_images": 2,
}
REFINED = "--set fusion=none --set decoder=linear --set evaluate.refine=gradient_descent"
COMMANDS = (
    "check",
    "prepare",
    "prior",
    "extract --backbone vgg16",
    "train",
    "evaluate",
    f"train {REFINED} --models refined/models --metrics refined",
    f"evaluate {REFINED} --models refined/models --metrics refined",
    "compare metrics refined --metric brightness --out comparison",
)
ONE_PROCESS = """
import runpy, sys
for command in sys.argv[1:]:
    sys.argv = ["stages", *command.split()]
    try:
        runpy.run_module("stages", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise SystemExit(f"{command}: {end.code}")
"""
TEST_SPLIT = {3, 5, 8}  # numbers of photographs
CONTRACTS = (
    "tests/models/test_decoders.py",
    "tests/models/test_fusion.py",
    "tests/training/test_losses.py",
    "tests/refinement/test_refiners.py",
    "tests/stores/test_store_contract.py",
)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, str]]:
    """The extended copy, and the file of each addition."""
    project = checkout(tmp_path_factory.mktemp("extended"))
    return project, {heading: extend(project, heading) for heading in ADDED}


@pytest.fixture(scope="module")
def experiment(added: tuple[Project, dict[str, str]]) -> Path:
    """The copy after an experiment with all additions, and one more with the refiner, which takes one source."""
    project, _ = added
    write_photographs(project.root / "data/raw/pictures", 14)
    names = sorted(f"pictures/{path.name}" for path in (project.root / "data/raw/pictures").iterdir())
    splits = ["test" if number in TEST_SPLIT else "" for number in range(len(names))]
    table = pd.DataFrame({"path": names, "split": splits})
    table.to_csv(project.root / "data/raw/photographs.csv", index=False)
    project.set(CHOSEN)
    project.run(sys.executable, "-c", ONE_PROCESS, *COMMANDS)
    return project.root


@pytest.mark.parametrize("heading", ADDED)
def test_the_digest_of_a_stage_sees_the_new_file(added: tuple[Project, dict[str, str]], heading: str) -> None:
    project, names = added
    chosen = {DATASETS: "listed", DECODERS: "shuffle", FUSIONS: "mean"}
    found = files(f"stages.{ADDED[heading]}", chosen=chosen, library=project.root)
    assert Path(names[heading]) in found


def test_the_graph_and_the_contract_suites_take_them_in(added: tuple[Project, dict[str, str]]) -> None:
    project, names = added
    members = " or ".join(["test_graph", *(Path(name).stem for name in names.values())])
    options = ("-vv", "-p", "no:cacheprovider", "-k", members)
    output = project.run(sys.executable, "-m", "pytest", *options, "tests/core/test_graph.py", *CONTRACTS).output
    assert "tests/core/test_graph.py::" in output
    for heading in ("A decoder", "A fusion", "A loss term", "A refiner", "A store format"):
        assert re.search(rf"\[.*{Path(names[heading]).stem}.*\] PASSED", output), heading


def test_the_data_set_fixes_the_splits_that_it_names(experiment: Path) -> None:
    images = pd.read_csv(experiment / "data/prepared/images.csv").set_index("id")["split"]
    assert {name for name, split in images.items() if split == "test"} >= {
        f"pictures/photograph_{number:03d}.png" for number in TEST_SPLIT
    }
    assert len(images) == 14


def test_the_store_is_plain_numpy(experiment: Path) -> None:
    shards = sorted((experiment / "features/vgg16/block1").glob("*/features.npy"))
    features = np.concatenate([np.load(shard) for shard in shards])
    assert features.shape == (14, 64, 32, 32)
    assert features.dtype == np.float16


def test_the_decoder_was_trained_behind_the_fusion_by_the_loss(experiment: Path) -> None:
    blueprint = json.loads((experiment / "metrics/protocol.json").read_text())["model"]["blueprint"]
    assert (blueprint["decoder"], blueprint["fusion"]) == ("shuffle", "mean")
    curves = pd.read_csv(experiment / "metrics/training.csv")
    assert np.isfinite(curves["validation_charbonnier"]).all()


def test_the_metric_is_reported_and_compared_by(experiment: Path) -> None:
    brightness = pd.read_csv(experiment / "metrics/per_image.csv", index_col="image")["brightness"]
    scores = json.loads((experiment / "metrics/metrics.json").read_text())
    assert scores["brightness"]["mean"] == pytest.approx(brightness.mean(), rel=1e-4)
    protocol = json.loads((experiment / "metrics/protocol.json").read_text())
    assert "means over all pixels" in protocol["conventions"]["brightness"]
    for number, image in enumerate(protocol["reconstructions"]):
        original, found = (
            np.asarray(Image.open(experiment / f"metrics/reconstructions/{number:02}_{kind}.png")).mean() / 255
            for kind in ("original", "reconstruction")
        )
        assert brightness[image] == pytest.approx(abs(found - original), abs=1 / 255)  # the picture has 8 bits
    leaderboard = pd.read_csv(experiment / "comparison/leaderboard.csv")
    assert leaderboard["brightness"].is_monotonic_increasing


def test_the_refiner_matches_the_features_better_than_its_start(experiment: Path) -> None:
    path = pd.read_csv(experiment / "refined/plots/images/refinement.csv")["feature_error"]
    assert path.iloc[-1] < path.iloc[0]
    assert json.loads((experiment / "refined/protocol.json").read_text())["refinement"]["refiner"] == "gradient_descent"
