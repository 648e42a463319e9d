"""protocol.json of a real evaluation: the photographs that were left out, the code, the device."""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from small_experiment import CPU, PARAMS, experiment, small_settings

from pipeline.core.code import STAGES, digest
from pipeline.core.params import load_params
from pipeline.data.preparation.run import prepare
from pipeline.evaluation.conventions import differences, identity
from pipeline.evaluation.run import evaluate
from pipeline.stores.prepared import PreparedData

LIBRARY = Path(__file__).parents[2] / "pipeline"
BROKEN = "broken.png"


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the small experiment on its photographs and one more file, which is no picture, and was to be skipped.

    What is left are the pixels, splits and views that its features are of.
    """
    made, root = experiment("linear"), tmp_path_factory.mktemp("skipped")
    shutil.copytree(made.root / "photographs", root / "photographs")
    (root / "photographs" / BROKEN).write_text("no picture")
    params = load_params(PARAMS, (*small_settings(root), "decoder=linear", "prepare.on_bad_image=skip"))
    prepare(params, root / "prepared", root / ".work")
    data = PreparedData.open(root / "prepared")
    evaluate(params, data, made.paths(metrics=root / "metrics"), CPU)
    return json.loads((root / "metrics/protocol.json").read_text())


def test_it_lists_the_photographs_that_were_left_out(protocol: dict[str, Any]) -> None:
    (skipped,) = protocol["data"]["skipped"]
    assert skipped["file"] == BROKEN
    assert skipped["reason"].startswith("is no image that can be read")


def test_photographs_left_out_do_not_make_another_protocol(protocol: dict[str, Any]) -> None:
    """Only the pixels that were scored count."""
    clean = {**protocol, "data": {**protocol["data"], "skipped": []}}
    assert differences(protocol, clean) == []
    assert identity(protocol) == identity(clean)


def test_it_names_the_code(protocol: dict[str, Any]) -> None:
    command = ["git", "log", "-1", "--format=%H", "--", "."]
    commit = subprocess.run(command, cwd=LIBRARY, capture_output=True, text=True, check=True).stdout.strip()
    assert protocol["code"]["commit"].removesuffix(" and edits") == commit
    assert protocol["code"]["sha256"] == digest(*(f"stages.{stage}" for stage in STAGES))


def test_it_names_the_device_and_no_thread_count(protocol: dict[str, Any]) -> None:
    """As many threads as a machine has cores would make equal runs unequal."""
    assert protocol["runtime"]["device"] == f"cpu ({platform.machine()})"
    assert set(protocol["runtime"]) == {"python", "device", "packages"}
