"""Models are loaded once for all sessions, the least used are forgotten, and a bad one gets a sentence."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from small_checkout import EXPERIMENTS, small_checkout

from app.laboratory import Laboratory
from app.results import loaded_first
from pipeline.core.errors import PipelineError
from pipeline.experiments import reconstruction

pytestmark = pytest.mark.slow


@pytest.fixture
def laboratory() -> Laboratory:
    return Laboratory(small_checkout())


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(small_checkout() / "models", folder / "models"))


def test_the_workspace_and_all_experiments_have_models(laboratory: Laboratory) -> None:
    names = laboratory.models()
    assert names[0] == "workspace"
    assert set(names) == {"workspace", *EXPERIMENTS}


def test_an_experiment_brings_its_own_weights(laboratory: Laboratory) -> None:
    kinds = {
        name: laboratory.loaded(name).description["backbones"]["efficientnet_lite0"]["weights"]["kind"]
        for name in ("shallow", "shallow-random")
    }
    assert kinds == {"shallow": "package", "shallow-random": "random"}


def test_many_sessions_load_a_model_once(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = reconstruction.load_encoder
    monkeypatch.setattr(reconstruction, "load_encoder", lambda *given: calls.append(given) or load(*given))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(laboratory.loaded, ["workspace"] * 16))
    assert len(calls) == 1
    assert all(each is found[0] for each in found)


def test_models_of_the_same_layer_share_its_network(laboratory: Laboratory, tmp_path: Path) -> None:
    one, other = laboratory.loaded("workspace"), laboratory.loaded(str(copied(tmp_path)))
    assert one.encoder is not other.encoder
    assert one.encoder.networks is other.encoder.networks


def test_the_least_used_model_goes(tmp_path: Path) -> None:
    room = Laboratory(small_checkout()).loaded("workspace").bytes * 5 // 2
    laboratory = Laboratory(small_checkout(), memory_bytes=room)
    first = laboratory.loaded("workspace")
    second_folder, third_folder = (str(copied(tmp_path / name)) for name in ("second", "third"))
    second = laboratory.loaded(second_folder)
    assert laboratory.loaded("workspace") is first
    laboratory.loaded(third_folder)
    assert laboratory.loaded("workspace") is first
    assert laboratory.loaded(second_folder) is not second


def test_a_model_that_was_trained_anew_is_loaded_anew(laboratory: Laboratory, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    before = laboratory.loaded(str(folder))
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "seed": 7}))
    assert laboratory.loaded(str(folder)) is not before
    assert laboratory.loaded(str(folder)).description["seed"] == 7


def damaged(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def of_another_version(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    description["blueprint"]["decoder"] = "of_tomorrow"
    (folder / "model.json").write_text(json.dumps(description))


def test_an_experiment_of_before_a_key_takes_it_from_the_checkout(laboratory: Laboratory, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    older = YAML(typ="safe", pure=True).load(small_checkout() / "params.yaml")
    del older["perceptual"], older["decoders"]["residual"]["width"]
    with (folder.parent / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(older, file)
    assert laboratory.loaded(str(folder)).params == laboratory.loaded("workspace").params


def test_a_folder_is_called_as_it_was_asked_for(laboratory: Laboratory) -> None:
    models = str(small_checkout() / "models")
    first, second = laboratory.loaded("workspace"), laboratory.loaded(models)
    assert (first.name, second.name) == ("workspace", models)
    assert first.encoder is second.encoder


def test_sessions_that_fetch_one_experiment_at_once() -> None:
    laboratory = Laboratory(small_checkout())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(laboratory.description, ["deeper"] * 4))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"blueprint": 3}',
        '{"blueprint": {"sources": []}, "backbones": {}}',
        '{"blueprint": {"sources": 5, "shapes": [], "decoder": "linear", "fusion": "none"}, "backbones": {}}',
        '{"blueprint": {"sources": ["vgg16.block1"], "decoder": "linear", "fusion": "none"}, "backbones": {}}',
        '{"blueprint": {"sources": ["vgg16.block1"], "shapes": [[64, 8, 8]], "decoder": "linear", "fusion": "none"}, '
        '"backbones": {}}',
    ],
)
def test_what_describes_no_model(laboratory: Laboratory, tmp_path: Path, content: str) -> None:
    folder = copied(tmp_path)
    (folder / "model.json").write_text(content)
    with pytest.raises(PipelineError, match="describes no model"):
        laboratory.description(str(folder))


@pytest.mark.parametrize("spoil", [damaged, of_another_version, lambda folder: (folder / "model.json").unlink()])
def test_a_bad_model_gets_a_sentence_and_others_go_on(laboratory: Laboratory, tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    folder = copied(tmp_path)
    spoil(folder)
    with pytest.raises(PipelineError):
        laboratory.loaded(str(folder))
    assert laboratory.loaded("workspace").name == "workspace"


def test_a_name_that_is_nothing(laboratory: Laboratory) -> None:
    with pytest.raises(PipelineError, match="dvc exp list"):
        laboratory.loaded("no such experiment")


def test_other_folders_only_where_the_app_is_local(tmp_path: Path) -> None:
    folder = str(copied(tmp_path))
    laboratory = Laboratory(small_checkout(), anywhere=False)
    with pytest.raises(PipelineError, match="not below"):
        laboratory.loaded(folder)
    assert laboratory.loaded("shallow").name == "shallow"


def test_an_empty_checkout_has_nothing_and_warms_nothing(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    assert laboratory.models() == []
    assert laboratory.photographs() == []
    loaded_first(laboratory)


def test_a_test_photograph_of_another_size_is_refused(laboratory: Laboratory) -> None:
    name = laboratory.photographs()[0]
    rules = laboratory.loaded("workspace").encoder.rules
    with pytest.raises(PipelineError, match="upload"):
        laboratory.photograph(name, rules.model_copy(update={"crop": 60}))
    with pytest.raises(PipelineError, match="no test photograph"):
        laboratory.photograph("nobody.png", rules)
