"""Two stages through dvc: photographs are refined when params.yaml asks for it, and only then."""

import json
from pathlib import Path

import pytest
from project import computed_project
from small_evaluation import no_lpips_weights  # noqa: F401  (autouse)


@pytest.mark.slow
def test_dvc_refines_when_asked_and_only_then(tmp_path: Path) -> None:
    project = computed_project(tmp_path / "clone")
    assert (project.root / "data/first_stage/unused").is_file()
    run = project.run(
        "dvc", "exp", "run", "-S", "two_stage.refine=map", "-S", "two_stage.budget=2", "-S", "decoder=residual"
    )
    assert run.ran == ["refine", "train", "evaluate"]
    metrics = json.loads((project.root / "metrics/metrics.json").read_text())
    assert metrics["floors"]["first_stage"]["psnr"] > 10
    assert not (project.root / "data/first_stage/unused").exists()
