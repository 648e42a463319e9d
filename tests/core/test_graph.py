"""dvc.yaml against the code: a stage depends on exactly the files that can change its numbers."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.code import DECODERS, NO_DECODER, STAGES, dependencies, digest, files

ROOT = Path(__file__).parents[2]
GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def _code(stage: str) -> list[str]:
    return sorted(dep for dep in GRAPH[stage]["deps"] if dep.split("/")[0] in ("pipeline", "stages"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs_and_on_no_other(stage: str) -> None:
    assert _code(stage) == list(dependencies(stage))


def test_every_stage_is_known_and_check_depends_on_all_code() -> None:
    assert set(GRAPH) == {"check", *STAGES}
    assert _code("check") == ["pipeline", "stages"]


def test_there_are_few_dependencies() -> None:
    assert sum(len(_code(stage)) for stage in GRAPH) <= 50


@pytest.mark.parametrize("stage", GRAPH)
def test_every_dependency_exists(stage: str) -> None:
    for dep in _code(stage):
        assert "$" in dep or (ROOT / dep).exists(), dep


def test_imports_inside_functions_and_members_of_registries_are_followed() -> None:
    used = {str(path) for path in files("pipeline.models.common.inverter", chosen={DECODERS: "wavelet"})}
    assert "pipeline/models/decoders/wavelet.py" in used  # by the registry
    assert "pipeline/models/parts/wavelets.py" in used  # by the member
    assert "pipeline/models/common/linear.py" in used  # by an ordinary import
    assert "pipeline/models/decoders/residual.py" not in used
    assert "pipeline/models/decoders/wavelet.py" not in {
        str(path) for path in files("pipeline.models.common.inverter", chosen=NO_DECODER)
    }
    assert "pipeline/experiments/comparison.py" in {str(path) for path in files("stages.compare")}
    assert "pipeline/training/terms/ssim.py" in {str(path) for path in files("stages.train")}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the project's code, to be edited."""
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_digest_changes_with_code_that_runs_and_with_nothing_else(library: Path) -> None:
    def now() -> str:
        return digest("pipeline.training.run", chosen={DECODERS: "residual"}, library=library)

    before = now()
    assert before == digest("pipeline.training.run", chosen={DECODERS: "residual"})
    _edit(library / "pipeline/training/fitter.py", '"""Gradient descent', '# a comment\n"""Gradient ascent')
    _edit(library / "pipeline/evaluation/scoring.py", "SWAP_MARGIN = 3.0", "SWAP_MARGIN = 4.0")
    _edit(library / "pipeline/models/decoders/wavelet.py", "BANDS = 4", "BANDS = 5")
    assert now() == before
    _edit(library / "pipeline/training/fitter.py", "CHECKED_TOGETHER = 32", "CHECKED_TOGETHER = 33")
    assert now() != before
