"""What the pages work on: the models of a checkout and its photographs, loaded once for all sessions.

The library is imported where it is used: the first paint waits neither for torch nor for DVC.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast
from weakref import WeakValueDictionary

from pydantic import BaseModel, Field, ValidationError, model_validator

from app.uploads import INLINE, PREFIX, Uploads, inline, shown
from pipeline.core.errors import CheckpointError, DataError
from pipeline.core.params import Params, PrepareParams, load_params
from pipeline.core.paths import Paths
from pipeline.core.sources import Source

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.experiments.reconstruction import Encoder
    from pipeline.metrics.similarity import Lpips
    from pipeline.refinement.networks import Networks
    from pipeline.stores.prepared import PreparedData

WORKSPACE = "workspace"
MEMORY = 2 * 2**30  # bytes that loaded models may take together
FIRST = "make repro"  # makes the first model


class _Blueprint(BaseModel):
    sources: Annotated[list[str], Field(min_length=1)]
    shapes: list[tuple[int, int, int]]
    decoder: str
    fusion: str


class _Weights(BaseModel):
    kind: str
    detail: str


class _Network(BaseModel):
    weights: _Weights


class _Description(BaseModel):
    """What the pages read of a model.json; there is more."""

    blueprint: _Blueprint
    backbones: dict[str, _Network]

    @model_validator(mode="after")
    def _every_source_has_its_network(self) -> _Description:
        for source in self.blueprint.sources:
            if Source.parse(source).backbone not in self.backbones:
                raise ValueError(f"the network of {source} is not described")
        return self


@dataclass(frozen=True)
class Loaded:
    """A model ready to use: `folder` is where it came from, `params` what it was made with."""

    name: str
    folder: Path
    params: Params
    description: dict[str, Any]
    encoder: Encoder
    bytes: int


@dataclass(frozen=True)
class Photograph:
    """A photograph as a model takes it: `image` (1, 3, crop, crop) RGB in [0, 1]. `note`: how it came to that."""

    name: str
    image: Tensor
    note: str


class Laboratory:
    """Models and photographs of the checkout in `root`, for any number of threads.

    `computing` is held by whoever runs a network: hooks and cores are shared. `anywhere`: models may be named by any
    folder, not only below `root`.
    """

    def __init__(
        self,
        root: Path,
        params: Path | None = None,
        overrides: Iterable[str] = (),
        device: str = "auto",
        memory_bytes: int = MEMORY,
        anywhere: bool = True,
    ) -> None:
        self.root, self.anywhere = root, anywhere
        self.paths = Paths.below(root)
        self.uploads = Uploads()
        self.computing = threading.RLock()
        self._params, self._overrides, self._device = params or root / "params.yaml", tuple(overrides), device
        self._memory = memory_bytes
        self._fetched = tempfile.TemporaryDirectory(prefix="laboratory-")  # models out of DVC's cache
        self._loaded: OrderedDict[tuple[Path, int], Loaded] = OrderedDict()
        self._networks: WeakValueDictionary[str, Networks] = WeakValueDictionary()
        self._lpips: list[Lpips] = []
        self._data: tuple[int, PreparedData] | None = None
        self._lock, self._loading = threading.Lock(), threading.Lock()

    @property
    def fetched(self) -> Path:
        """A folder for what comes out of Git and DVC's cache; it goes with the laboratory."""
        return Path(self._fetched.name)

    def params(self) -> Params:
        """params.yaml as it is now."""
        return load_params(self._params, self._overrides)

    def models(self) -> list[str]:
        """Names of the models: the workspace, where it has one, and DVC's experiments."""
        from pipeline.experiments.saved_models import DESCRIPTION, revisions

        here = [WORKSPACE] if (self.paths.models / DESCRIPTION).is_file() else []
        return [*here, *revisions(self.root)]

    def description(self, name: str) -> dict[str, Any]:
        """What model.json of a model says. Raises DataError, CheckpointError: no such model, or a damaged one."""
        path = self._place(name)[0] / "model.json"
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); train again: python -m stages train") from None
        try:
            _Description.model_validate(description)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{path} describes no model ({where}: {first['msg']}); train again: python -m stages train"
            ) from None
        return cast(dict[str, Any], description)

    def loaded(self, name: str) -> Loaded:
        """A model, loaded now or before; beyond the memory that models may take, the least used are forgotten.

        Raises:
            PipelineError: no such model, a damaged one, one of another version, or its network is missing.
        """
        folder, settings = self._place(name)
        file = folder / "model.json"
        key = (folder, file.stat().st_mtime_ns if file.is_file() else 0)
        found = self._known(key)
        if found is None:
            with self._loading:
                found = self._known(key) or self._load(name, folder, settings)
                with self._lock:
                    self._loaded[key] = found
                    while len(self._loaded) > 1 and sum(each.bytes for each in self._loaded.values()) > self._memory:
                        self._loaded.popitem(last=False)
        return found if found.name == name else replace(found, name=name)  # one folder may have several

    def data(self) -> PreparedData:
        """The photographs of the cache. Raises DataError: none are prepared."""
        from pipeline.stores.prepared import MANIFEST, PreparedData

        manifest = self.paths.data / MANIFEST
        written = manifest.stat().st_mtime_ns if manifest.is_file() else 0
        with self._lock:
            if self._data is None or self._data[0] != written:
                self._data = (written, PreparedData.open(self.paths.data))
            return self._data[1]

    def photographs(self) -> list[str]:
        """Names of the test photographs in the cache; none where nothing is prepared."""
        try:
            data = self.data()
        except DataError:
            return []
        return [data.image_ids[data.image[row]] for row in data.rows("test")]

    def photograph(self, key: str, rules: PrepareParams) -> Photograph:
        """A test photograph, an upload, or a photograph as text (`data:…`), cut and resized by `rules`.

        Raises:
            DataError: no such photograph, or one that cannot be used.
        """
        from pipeline.data.photographs import open_photograph

        if not key.startswith((PREFIX, INLINE)):
            return self._test_photograph(key, rules)
        upload = self.uploads.get(key) if key.startswith(PREFIX) else inline(key)
        try:
            image, (height, width) = open_photograph(upload.content, rules)
        except DataError as error:
            remedy = " (or start with --set prepare.non_rgb=convert)" if "RGB" in str(error) else ""
            raise DataError(f"{upload.name} {error}; choose another photograph{remedy}") from None
        return Photograph(upload.name, image, f"{width}×{height} pixels, {_cut(rules)}")

    def check(self, key: str) -> None:
        """Raises DataError: there is no such photograph, or by the rules of params.yaml it cannot be used."""
        if key.startswith((PREFIX, INLINE)):
            self.photograph(key, self.params().prepare)
        else:
            self._row(key)

    def _row(self, name: str) -> int:
        data = self.data()
        rows = {data.image_ids[data.image[row]]: int(row) for row in data.rows("test")}
        if name not in rows:
            raise DataError(f"there is no test photograph '{shown(name)}' in {data.root}; choose one of the list")
        return rows[name]

    def _test_photograph(self, name: str, rules: PrepareParams) -> Photograph:
        import torch

        from pipeline.stores.encoding import rgb

        data, row = self.data(), self._row(name)
        if (data.size, data.crop) != (rules.size, rules.crop):
            raise DataError(
                f"the photographs in {data.root} are {data.crop} of {data.size} pixels wide, this model takes "
                f"{rules.crop} of {rules.size}; upload the photograph itself"
            )
        pixels = torch.from_numpy(data.crops(data.rows("test")[data.rows("test") == row]))
        return Photograph(name, rgb(pixels), f"a test photograph of the cache, {_cut(rules)}")

    def _place(self, name: str) -> tuple[Path, Path]:
        from pipeline.experiments.saved_models import model_folder

        try:
            os.stat(self.root / name)
        except (FileNotFoundError, NotADirectoryError):  # an experiment, or nothing
            pass
        except (OSError, ValueError) as error:
            raise DataError(f"'{shown(name)}' names no model ({error.args[-1]}); choose one of the list") from None
        if not self.anywhere and not (self.root / name).resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"'{shown(name)}' is not below {self.root}; --host takes no models from elsewhere")
        return model_folder(name, self.root, self.fetched)

    def _known(self, key: tuple[Path, int]) -> Loaded | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return self._loaded.get(key)

    def _load(self, name: str, folder: Path, settings: Path) -> Loaded:
        from pipeline.core.runtime import choose_device
        from pipeline.experiments.reconstruction import load_encoder
        from pipeline.metrics.alexnet import lpips_available
        from pipeline.metrics.similarity import load_lpips

        own = settings if settings.is_file() and name != WORKSPACE else self._params
        params = load_params(own, self._overrides, lacking=self._params)  # `own` may be of an older version
        device = choose_device(self._device)
        if not self._lpips and lpips_available() is None:
            self._lpips.append(load_lpips().to(device))
        description = self.description(name)
        encoder = load_encoder(folder, params, device, next(iter(self._lpips), None), self._shared)
        return Loaded(name, folder, params, description, encoder, encoder.bytes)

    def _shared(self, params: Params, sources: Any, precisions: Any, device: Any) -> Networks:
        """The networks of these sources, one for all models that have the same."""
        from pipeline.refinement.networks import Networks

        entries = [params.backbone_params(source.backbone) for source in sources]
        key = repr((sources, precisions, device, entries))
        found = self._networks.get(key)
        if found is None:
            found = self._networks[key] = Networks(params, sources, precisions, device)
        return found


def _cut(rules: PrepareParams) -> str:
    shape = "squashed into a square" if rules.resize == "squash" else "its largest centred square"
    return (
        f"cut and resized as in training: {shape}, {rules.size}×{rules.size} ({rules.interpolation}), {rules.crop} kept"
    )
