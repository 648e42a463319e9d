"""The models of a checkout: of the workspace, of every DVC experiment, of any folder, each with its params.yaml."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.experiments.comparison import WORKSPACE, dvc_experiments

MODELS, PARAMS = "models", "params.yaml"
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
        return root / MODELS, root / PARAMS
    for folder in (root / name, root / name / MODELS):
        if (folder / DESCRIPTION).is_file():
            return folder, folder.parent / PARAMS
    if (root / name).is_dir():
        raise DataError(f"{root / name} holds no model: no {DESCRIPTION}; name a folder that train wrote")
    folder = _fetch(name, root, fetched)
    return folder / MODELS, folder / PARAMS


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
            files = DVCFileSystem(repo.root_dir, rev=commit)
            with tempfile.TemporaryDirectory(dir=fetched) as part:
                files.get(MODELS, f"{part}/{MODELS}", recursive=True)
                files.get(PARAMS, f"{part}/{PARAMS}")
                shutil.copytree(part, target)
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
