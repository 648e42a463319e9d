"""The download caches of torch and of the Hugging Face hub: their files, and copying these to another machine.

The libraries choose the folders (`TORCH_HOME`, `HF_HOME`, `HF_HUB_CACHE`) and download. This module only
knows their layouts, so that error messages can name files, and weights can be copied to a machine without network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from pipeline.core.errors import WeightsError

REACH_SECONDS = 10.0
SAFETENSORS = {  # pickle → safetensors file that timm prefers to it; timm has no public list of these names
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


class CachedFile(ABC):
    """A file of weights in a library's cache.

    Attributes:
        name: the file, in words that can be searched for on the web.
    """

    name: str

    @property
    @abstractmethod
    def root(self) -> Path:
        """The library's cache folder."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder below `root` in which the library looks for this file."""

    @abstractmethod
    def members(self, root: Path) -> list[PurePosixPath]:
        """Its files, relative to `root` (the cache, or a copy of it); empty if it is missing."""

    @abstractmethod
    def fetch(self) -> None:
        """Download it into the cache by the library's own routine. Raises OSError or HTTPError."""

    def present(self) -> bool:
        return bool(self.members(self.root))

    def copy(self, source: Path, target: Path) -> list[Path]:
        """Copy its files from the root `source` to the root `target`; return the written paths.

        Links become files, so that the copy is self-contained; each file appears complete or not at all.

        Raises:
            WeightsError: `target` cannot be written.
        """
        members = self.members(source)
        for member in members:
            _copy_file(source / member, target / member)
        return [target / member for member in members]


class TorchHubFile(CachedFile):
    """A file in `$TORCH_HOME/hub/checkpoints`, named by torch.hub after the last part of its URL."""

    def __init__(self, url: str, name: str | None = None) -> None:
        self.url = url
        self.name = name or PurePosixPath(urlparse(url).path).name

    @property
    def root(self) -> Path:
        return Path(torch.hub.get_dir())

    @property
    def folder(self) -> Path:
        return self.root / "checkpoints"

    def members(self, root: Path) -> list[PurePosixPath]:
        member = PurePosixPath("checkpoints", self.name)
        return [member] if (root / member).is_file() else []

    def fetch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.url, str(self.folder / self.name), self.hash_prefix())

    def hash_prefix(self) -> str | None:
        """The first digits of the file's SHA-256 if its name ends in them, by torch.hub's convention; else None."""
        match = torch.hub.HASH_REGEX.search(self.name)
        return match.group(1) if match else None

    def as_published(self) -> bool:
        """Whether the cached file has the hash in its name; True if the name has none."""
        with (self.folder / self.name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest.startswith(self.hash_prefix() or "")


class HubFile(CachedFile):
    """The weights file of a Hugging Face repository, in `$HF_HOME/hub/models--owner--name/snapshots/<commit>`."""

    def __init__(self, repository: str, filename: str | None = None) -> None:
        self.repository, _, revision = repository.partition("@")
        self.revision = revision or "main"
        self._asked = repository
        self._filename = filename or "pytorch_model.bin"  # timm's own default
        self.name = f"{filename or 'model.safetensors'} of {self.repository}"

    @property
    def root(self) -> Path:
        return Path(constants.HF_HUB_CACHE)

    @property
    def folder(self) -> Path:
        return self.root / self._repository_folder

    @property
    def _repository_folder(self) -> str:
        return "models--" + self.repository.replace("/", "--")

    def members(self, root: Path) -> list[PurePosixPath]:
        asked = self._filename
        names = (
            SAFETENSORS.get(asked, re.sub(r"\.bin$", ".safetensors", asked)),
            asked,
        )  # the names that timm reads, in order
        found = [try_to_load_from_cache(self.repository, name, root, self.revision) for name in names]
        files = [PurePosixPath(Path(path).relative_to(root)) for path in dict.fromkeys(found) if isinstance(path, str)]
        commit_of = PurePosixPath(self._repository_folder, "refs", self.revision)  # none where the revision is a commit
        return [commit_of, *files] if files and (root / commit_of).is_file() else files

    def fetch(self) -> None:
        url = hf_hub_url(self.repository, self._filename, revision=self.revision)
        # one request first, because the hub's own download tries ten times, for most of a minute, before it gives up
        with suppress(EntryNotFoundError):  # the repository exists; timm knows the other names of its weights
            get_hf_file_metadata(url, timeout=REACH_SECONDS)
        from timm.models import load_state_dict_from_hf  # slow to import, and needed only here

        load_state_dict_from_hf(self._asked, self._filename)


@contextmanager
def hub_offline() -> Iterator[None]:
    """Inside the block, the hub's library reads its cache only: cached files need no network, which may fail."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _copy_file(source: Path, target: Path) -> None:
    unfinished = target.with_name(f"{target.name}.unfinished-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be missing
            unfinished.unlink()
        raise WeightsError(
            f"{target} cannot be written ({error.strerror}); free the disk or choose another folder"
        ) from None
