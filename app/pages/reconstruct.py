"""A page."""

from __future__ import annotations

from app.chooser import Chosen
from app.laboratory import Laboratory


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """Inside the Blocks."""
