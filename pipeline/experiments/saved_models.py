"""The models of a checkout: of the workspace, of every DVC experiment, of any folder, each with its params.yaml."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import DataError
from pipeline.core.params import NONE, Params
from pipeline.core.sources import Source
from pipeline.experiments.found import WORKSPACE, copy_whole, dvc_experiments
from pipeline.experiments.study.grid import slots

MODELS, SETTINGS = "models", "params.yaml"
DESCRIPTION = "model.json"


def revisions(root: Path) -> dict[str, str]:
    """Revisions of the DVC experiments of the project in `root`, by name; none where there is no repository."""
    try:
        return dict(dvc_experiments(root))
    except DataError:
        return {}


def model_folder(name: str, root: Path, fetched: Path) -> tuple[Path, Path]:
    """The folder of a model, and the params.yaml that it was made with (which may not be there).

    `name` is `workspace`, a DVC experiment or Git revision, or a folder; of a relative one the place is `root`. What
    comes out of DVC's cache is put into `fetched`, and is not fetched again.

    Raises:
        DataError: no such model, or it is not in DVC's cache.
    """
    if name == WORKSPACE:
        return root / MODELS, root / SETTINGS
    for folder in (root / name, root / name / MODELS):
        if (folder / DESCRIPTION).is_file():
            return folder, folder.parent / SETTINGS
    if (root / name).is_dir():
        raise DataError(f"{root / name} holds no model: no {DESCRIPTION}; name a folder that train wrote")
    folder = _fetch(name, root, fetched)
    return folder / MODELS, folder / SETTINGS


def _fetch(name: str, root: Path, fetched: Path) -> Path:
    from dvc.api import DVCFileSystem  # slow to import, and not needed for folders
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCMError, RevError, resolve_rev

    try:
        with Repo(str(root)) as repo:
            commit = resolve_rev(repo.scm, revisions(root).get(name, name))
            target = fetched / f"{commit}-{MODELS}"
            if target.is_dir():
                return target
            copy_whole(DVCFileSystem(repo.root_dir, rev=commit), [MODELS, SETTINGS], target)
            return target
    except (NoSCMError, NotDvcRepoError, RevError):
        raise DataError(
            f"'{name}' is no folder with a model, no DVC experiment and no Git revision of {root}; see: dvc exp list"
        ) from None
    except (DvcException, FileNotFoundError) as error:
        raise DataError(
            f"the model of '{name}' cannot be read ({error}); fetch it: dvc pull, or make it again: dvc exp apply "
            f"{name} && dvc repro"
        ) from None


def command(description: Mapping[str, Any], made_with: Params, now: Params) -> str:
    """The line that makes a model again, beginning from the parameters `now`.

    `description` is its model.json, `made_with` the parameters beside it: of them only sections that it used count.
    """
    blueprint = description["blueprint"]
    sources = [Source.parse(each) for each in blueprint["sources"]]
    settings: dict[str, Any] = dict(slots(sources))
    if blueprint["fusion"] == NONE:  # then nothing reads the slots of an ensemble
        settings = {key: value for key, value in settings.items() if not key.startswith("ensemble.")}
    settings |= {"decoder": blueprint["decoder"], "fusion": blueprint["fusion"]}
    if isinstance(description.get("loss"), Mapping) and len(description["loss"]) == 1:
        settings["loss"] = next(iter(description["loss"]))
    settings |= {f"train.{key}": value for key, value in description.get("train", {}).items()}
    if "seed" in description:
        settings["seed"] = description["seed"]
    protocol = description.get("train", {}).get("protocol")
    used = ["prepare", "store", "two_stage", "dataset", f"decoders.{blueprint['decoder']}", f"protocols.{protocol}"]
    used += [f"fusions.{blueprint['fusion']}"]
    used += [f"backbones.{source.backbone}.{key}" for source in sources for key in ("weights", "seed")]
    here = _flat(now.model_dump(mode="json"))
    settings |= {
        key: value
        for key, value in _flat(made_with.model_dump(mode="json")).items()
        if here.get(key) != value and any(f"{key}.".startswith(f"{name}.") for name in used)
    }
    options = []
    for key, value in settings.items():
        add = "" if here.get(key) is not None else "++"  # DVC's word for a key that params.yaml lacks
        options.append(f"-S {shlex.quote(f'{add}{key}={_yaml(value)}')}")
    return " ".join(["dvc exp run", *options])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _yaml(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)
