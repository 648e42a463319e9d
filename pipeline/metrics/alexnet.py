"""The file of AlexNet's weights, which LPIPS needs. Imports no torch, so that a missing file is reported at once."""

from __future__ import annotations

import os
from pathlib import Path

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


def lpips_weights_path() -> Path:
    """torchvision's file of AlexNet's weights, in $TORCH_HOME/hub/checkpoints, as `torch.hub.get_dir` finds it."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser()
    return home / "hub" / "checkpoints" / ALEXNET_FILE


def lpips_available() -> str | None:
    """None if LPIPS can be computed here, else one sentence with the reason and the remedy."""
    path = lpips_weights_path()
    if path.is_file():
        return None
    return (
        f"LPIPS needs AlexNet's weights {path.name}, which are not in {path.parent}; run `python -m stages weights "
        "lpips`, or, without network here, run it with --to DIR on a connected machine, then with --from DIR here"
    )
