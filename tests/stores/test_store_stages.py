"""`plan`, `inspect`, `verify` and `extract` as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from messages import says
from photo_trees import save_all
from small_stores import SmallBackbone, small_extraction, small_params
from typer.testing import CliRunner

from pipeline.core.errors import ParamsError, PipelineError, StoreError
from pipeline.core.tables import text_table
from pipeline.experiments import plan as planning
from pipeline.extraction import workspace
from pipeline.stores import layout
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData
from stages.__main__ import app
from stages.tables import duration, size

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    """Output of `python -m stages …`; what it raises is raised."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two backbones with two layers each, and the placeholder of an unused slot."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "MEGABYTE", 10_000)
    small_extraction(Path())
    small_extraction(
        Path(),
        small_params(dtype="int8", format="hdf5"),
        backbone=SmallBackbone(name="other"),
        output=Path("features/other"),
    )
    Path("features/none/none").mkdir(parents=True)
    return Path("features")


def test_inspect_prints_everything_about_a_store(features: Path) -> None:
    store = open_store(features / "small/deep")
    text = run("inspect", "features/small")
    assert text.splitlines() == [
        "features/small: small (torchvision small)",
        f"  weights     random, seed 0, SHA-256 {'0' * 64}",
        "  input       RGB crops of 16×16 in [0, 1], normalised by the backbone",
        f"  data        {store.data_fingerprint}",
        "  computed    fp32 on cpu, batches of 3, " + ", ".join(f"{n} {v}" for n, v in libraries(store).items()),
        *text.splitlines()[5:8],
        "",
    ]
    columns = "layer shape rows type codec shards size mean std rounding worst channel fingerprint"
    assert text.splitlines()[5].split() == columns.split()
    deep, shallow = text.splitlines()[6:8]
    assert deep.split()[:7] == ["small.deep", "16×4×4", "40", "float16", "zarr/none", "5", "of"]
    assert deep.endswith(store.fingerprint[:12])
    assert f"{store.mean.mean():.4g}" in deep
    assert shallow.split()[:2] == ["small.shallow", "8×8×8"]


def libraries(store) -> dict[str, str]:
    return store.manifest.facts["libraries"]


def test_inspect_takes_any_level(features: Path) -> None:
    everything = run("inspect")
    assert "features/other: other" in everything
    assert "features/small: small" in everything
    assert "hdf5/none" in everything
    assert "int8" in everything
    assert "small.deep" not in run("inspect", "features/other")
    one = run("inspect", "features/small/shallow")
    assert "small.shallow" in one
    assert "small.deep" not in one


def test_inspect_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        run("inspect", str(tmp_path))
    assert str(error.value) == f"{tmp_path} holds no feature stores; run `python -m stages extract`"


def test_verify_finds_all_damage_at_once(features: Path) -> None:
    assert run("verify") == "4 feature stores are intact\n"
    shard = features / "small/deep/features.zarr/c.1.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    (features / "other/deep/shards/00001.h5").unlink()
    (features / "other/shallow/manifest.json").unlink()
    with pytest.raises(StoreError) as error:
        run("verify")
    missing, unfinished, damaged = sorted(str(error.value).splitlines())
    remedy = "run `python -m stages extract --backbone"
    assert missing == f"features/other/deep/shards/00001.h5 is missing; {remedy} other`"
    says(unfinished, "features/other/shallow", "no manifest.json", f"{remedy} other`")
    assert damaged.startswith("features/small/deep/features.zarr/c.1.0.0.0 is damaged: its checksum is ")
    assert run("verify", "features/small/shallow") == "1 feature stores are intact\n"


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a small data set below the current directory."""
    monkeypatch.chdir(tmp_path)
    save_all(Path("photographs"), (f"{i}.png" for i in range(12)))
    changes = [
        "dataset=folder",
        "datasets.folder.root=photographs",
        "datasets.folder.validation_fraction=0.2",
        "datasets.folder.test_fraction=0.2",
        "prepare.size=48",
        "prepare.crop=32",
        "extract.batch_size=4",
        "store.shard_megabytes=1",
        "backbones.resnet34.layers=[layer1, layer3]",
        "backbone=resnet34",
        "layer=layer1",
    ]
    options = ["--params", str(ROOT / "params.yaml"), *(word for change in changes for word in ("--set", change))]
    run("prepare", *options)
    return options


def test_plan_extract_plan(prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("plan", "--no-time", *prepared).splitlines()
    assert lines[0].split() == ["layer", "shape", "rows", "a", "row", "total", "time", "(cpu)"]
    assert lines[1].split() == ["resnet34.layer1", "64×8×8", "20", "8.19", "kB", "176", "kB"]
    assert lines[2].split()[:3] == ["resnet34.layer3", "256×2×2", "20"]
    assert lines[3].startswith("to be written: 230 kB; free on the disk of .work: ")
    assert run("extract", *prepared) == ""
    assert "extracted" in run("plan", *prepared)
    assert "to be written: 0 B" in run("plan", *prepared)
    assert "to be written: 4" in run("plan", "--no-time", *prepared, "--set", "store.dtype=float32")
    assert open_store(Path("features/resnet34/layer3")).rows == 20
    monkeypatch.setattr("pipeline.extraction.run.free_bytes", lambda path: 1000)
    with pytest.raises(
        StoreError, match=r"^these features need 0\.00 GB and the disk that holds \.work has 0\.00 GB free"
    ):
        run("plan", "--no-time", *prepared, "--set", "store.dtype=float32")


def test_plan_estimates_the_time(prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(name: str, *_: object) -> float:
        assert name == "resnet34"
        return 7200.0

    monkeypatch.setattr(planning, "estimate_seconds", estimate)
    monkeypatch.setattr("stages.plan.estimate_seconds", estimate)
    assert "2.0 h" in run("plan", *prepared)


def test_plan_estimates_the_time_of_weights_from_a_file(prepared: list[str]) -> None:
    Path("trained.safetensors").touch()  # there, and not read
    changes = ("weights=trained.safetensors", "mean=[0.5, 0.5, 0.5]", "std=[0.5, 0.5, 0.5]")
    own = [word for change in changes for word in ("--set", f"backbones.resnet34.{change}")]
    assert run("plan", *prepared, *own).splitlines()[1].startswith("resnet34.layer1")


def test_extract_twice_none_and_clean(prepared: list[str]) -> None:
    run("extract", "--backbone", "none", "--backbone", "resnet34", *prepared)
    assert Path("features/none/none/unused").is_file()
    leftover = Path(".work/extract/resnet34-0123456789abcdef")
    leftover.mkdir(parents=True)
    told = f"unfinished extractions of other settings: {leftover}; --clean removes them\n"
    assert run("extract", *prepared) == told
    assert run("extract", "--clean", *prepared) == f"removed {leftover}\n"
    assert not leftover.exists()
    assert run("extract", "--clean", *prepared) == ""


def test_extract_in_two_parts(prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MEGABYTE", 40_000)  # four rows in a shard
    assert (
        run("extract", "--shards", "0/2", *prepared)
        == "features/resnet34 is complete when the other parts of --shards 0/2 are\n"
    )
    assert run("extract", "--shards", "1/2", *prepared) == ""
    assert open_store(Path("features/resnet34/layer1")).layout.shards == 5


@pytest.mark.parametrize("shards", ["2/2", "1", "a/2", "0/0", "-1/2", "/"])
def test_shards_that_make_no_sense(prepared: list[str], shards: str) -> None:
    with pytest.raises(ParamsError) as error:
        run("extract", "--shards", shards, *prepared)
    assert str(error.value) == f"--shards {shards}: must be I/N with I below N, for example 0/2 and 1/2"


def test_photographs_let_go_come_back_unchanged(prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData.open(Path("data/prepared"))
    rows = np.arange(len(data))
    before = data.crops(rows)
    data.forget()
    monkeypatch.setattr("pipeline.stores.prepared.checksum", None)  # what was checked once is not checked again
    np.testing.assert_array_equal(data.crops(rows), before)


def test_unknown_backbone_names_the_known_ones(prepared: list[str]) -> None:
    for command in ("extract", "plan"):
        with pytest.raises(
            ParamsError, match=r"^--backbone vgg61: not in params\.yaml; choose one of: .*, pvt_v2_b2, "
        ):
            run(command, "--backbone", "vgg61", *prepared)


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages", "inspect", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    says(result.stderr, f"error: {tmp_path}", "no feature stores", "`python -m stages extract`")


def test_tables() -> None:
    assert text_table(["a", "bc"], [["xyz", "1"], ["", "100"]]) == "a     bc\nxyz    1\n     100"
    assert [size(n) for n in (0, 999, 1610000, 128e6, 1.3e9, 80e12)] == [
        "0 B",
        "999 B",
        "1.61 MB",
        "128 MB",
        "1.3 GB",
        "80.00 TB",
    ]
    assert [duration(s) for s in (3.2, 99, 150, 9000)] == ["3 s", "99 s", "2 min", "2.5 h"]


def test_leftovers_are_looked_for_below_the_work_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "extract").mkdir()
    (tmp_path / "extract/file").write_text("")
    assert workspace.clean(tmp_path) == []
    assert issubclass(StoreError, PipelineError)
