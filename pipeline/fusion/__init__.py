"""Fusions: two to four sources to one. One file each; the file's name is the fusion's name."""

from pipeline.fusion.base import FUSIONS, Fusion, build_fusion

__all__ = ["FUSIONS", "Fusion", "build_fusion"]
