"""Load a network's weights and record which they are. There is no fallback from one kind to another."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.backbones.base import Library, Network, Published, reason
from pipeline.backbones.caches import TorchHubFile, hub_offline
from pipeline.backbones.checking import check_state, check_types, is_unused
from pipeline.backbones.normalization import Normalization
from pipeline.backbones.packaged import packaged
from pipeline.backbones.wrapping import unwrap
from pipeline.core.errors import WeightsError
from pipeline.core.params import BackboneParams

UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class WeightsRecord:
    """The identity of the weights, for every store's manifest and every metrics file.

    Attributes:
        detail: the seed, the library's name of the published weights, the package and its version, or the file's name
            and, in brackets, the wrapper or prefix that was removed from its keys.
        sha256: over every key, type, shape and byte of the network without its head.
        file_sha256: over a package's file.
    """

    kind: Literal["random", "imagenet", "package", "path"]
    detail: str
    sha256: str
    file_sha256: str | None = None

    def describe(self) -> dict[str, str]:
        """The record as plain values, for manifests and fingerprints."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Loaded:
    """A network on the CPU with its weights, the record of the weights, and the normalisation of its input."""

    network: Network
    record: WeightsRecord
    normalization: Normalization


def load_network(name: str, entry: BackboneParams, library: Library, model: str) -> Loaded:
    """Build `model` with the weights of `entry`: `random`, `imagenet`, `package`, or a path.

    Raises:
        WeightsError: the weights are missing, damaged, or of another network.
    """
    if entry.kind == "random":
        assert entry.seed is not None, "params.yaml must give it"
        network = seeded(lambda: library.build(model), entry.seed)
        return _loaded(network, "random", f"seed {entry.seed}", Normalization())
    if entry.kind == "imagenet":
        published = library.published(name, model, entry.tag)
        network = _published(name, library, model, published)
        return _loaded(network, "imagenet", _detail(published), published.normalization)
    if entry.kind == "package":
        package = packaged(name, model)
        path = package.locate()
        network = seeded(lambda: library.build(model), 0)
        network.model.load_state_dict(check_state(network, package.renamed(read_state(path)), str(path)))
        record = WeightsRecord("package", package.label, state_sha256(network.model), package.sha256)
        return Loaded(network, record, library.published(name, model, None).normalization)
    path = weights_file(name, entry)
    network = seeded(lambda: library.build(model), 0)
    state, taken_off = unwrap(network, read_state(path), str(path))
    network.model.load_state_dict(check_state(network, state, str(path)))
    if taken_off:
        print(f"backbones.{name}.weights: {path} fits as {taken_off}", file=sys.stderr)
    detail = f"{path.name} ({taken_off})" if taken_off else path.name
    return _loaded(network, "path", detail, _of_file(name, entry, library, model))


def state_sha256(model: nn.Module) -> str:
    """SHA-256 over the state dict in order of keys: equal for equal numbers, whatever their origin.

    Tensors on which no feature depends (`checking.UNUSED`) count as zero, so a file without them has the same hash.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        counted: Any = torch.zeros_like(tensor) if is_unused(key) else tensor
        digest.update(counted.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def seeded(build: Callable[[], Network], seed: int) -> Network:
    """The network as its library initialises it right after `torch.manual_seed(seed)`, always on the CPU.

    The process's own random state stays unchanged, so the weights do not depend on earlier work, and later work does
    not depend on them. The last bits can depend on the processor (docs/backbones.md); therefore the record hashes the
    numbers, not the seed.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the GPUs too
        return build()


def weights_file(name: str, entry: BackboneParams) -> Path:
    """The file that `entry.weights` names. Raises WeightsError if it does not exist."""
    path = Path(entry.weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"params.yaml: backbones.{name}.weights = '{path}' is not a file; "
            "give imagenet, package, random, or the path of a .pth or .safetensors file"
        )
    return path


def read_state(path: Path) -> Mapping[str, Any]:
    """Read the state dict in a .safetensors file or a .pth/.pt/.bin saved by torch, without running code in it.

    Raises:
        WeightsError: the file is damaged, of another format, contains code, or holds no state dict.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except UNREADABLE as error:
        raise WeightsError(f"{path} cannot be read as weights ({_unreadable(error)}); save it again") from None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict; save model.state_dict()")
    return state


def _unreadable(error: Exception) -> str:
    """Why a file could not be read. For pickles, torch's own message would advise to run the code in them."""
    if not isinstance(error, pickle.UnpicklingError):
        return reason(error)
    code = re.search(r"GLOBAL (\S+)", str(error), re.IGNORECASE)
    if code is None:
        return "it is damaged, or was not written by torch.save"
    return (
        f"it holds the Python object {code.group(1)}, and loading that would run code, so nothing was loaded; "
        "where the file was made, save model.state_dict() alone, or for a checkpoint of Lightning: "
        "torch.save(YourModule.load_from_checkpoint('FILE').state_dict(), 'weights.pth')"
    )


def obtain(name: str, published: Published) -> None:
    """Download the published file into the library's cache, by the library's own routine, unless it is there.

    Raises:
        WeightsError: the download failed; the message says how to copy the file from another machine.
    """
    file = published.file
    if file.present():
        return
    try:
        file.fetch()
    except (*UNREADABLE, HTTPError) as error:
        raise WeightsError(
            f"{file.name}, the weights of {published.label}, is not in {file.folder} and cannot be downloaded "
            f"({reason(error)}); on a machine with network run `python -m stages weights {name} --to DIR`, bring "
            f"DIR here and run `python -m stages weights {name} --from DIR`"
        ) from None


def _published(name: str, library: Library, model: str, published: Published) -> Network:
    obtain(name, published)
    file = published.file
    with hub_offline(), _readable(published), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        network = library.build_published(model, published)
    weights = next(file.root / member for member in file.members(file.root) if "refs" not in member.parts)
    with _readable(published):  # the library's cast hides the types in the network
        check_types(np.load(weights) if weights.suffix == ".npz" else read_state(weights), str(weights))
    check_state(network, network.model.state_dict(), str(weights))
    return network


@contextmanager
def _readable(published: Published) -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except UNREADABLE as error:
        raise WeightsError(
            f"{published.file.name} in {published.file.folder} cannot be loaded as {published.label} "
            f"({_unreadable(error)}); delete the file so that it is downloaded again"
        ) from None


def _loaded(
    network: Network, kind: Literal["random", "imagenet", "path"], detail: str, normalization: Normalization
) -> Loaded:
    return Loaded(network, WeightsRecord(kind, detail, state_sha256(network.model)), normalization)


def _detail(published: Published) -> str:
    """The weights' name, with a remark if the cached file does not have the hash in its name."""
    file = published.file
    if isinstance(file, TorchHubFile) and not file.as_published():
        return f"{published.label} (altered file)"
    return published.label


def _of_file(name: str, entry: BackboneParams, library: Library, model: str) -> Normalization:
    if entry.mean is not None and entry.std is not None:
        return Normalization(entry.mean, entry.std)
    try:
        return library.published(name, model, entry.tag).normalization
    except WeightsError:  # the library publishes none
        return Normalization()
