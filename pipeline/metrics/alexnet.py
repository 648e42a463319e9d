"""Where the weights of AlexNet are that LPIPS needs. Imports no torch: their absence is told before anything loads."""

from __future__ import annotations

import os
from pathlib import Path

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


def lpips_weights_path() -> Path:
    """Where torchvision keeps AlexNet's weights: $TORCH_HOME/hub/checkpoints, found as `torch.hub.get_dir` finds it."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser()
    return home / "hub" / "checkpoints" / ALEXNET_FILE


def lpips_available() -> str | None:
    """None when LPIPS can be computed here, else the one-sentence reason why it cannot."""
    path = lpips_weights_path()
    if path.is_file():
        return None
    return (
        f"LPIPS needs AlexNet's weights {path.name}, which are not in {path.parent}; run `python -m stages weights "
        "lpips`, or without network here the same with --to DIR on a connected machine, then with --from DIR here"
    )
