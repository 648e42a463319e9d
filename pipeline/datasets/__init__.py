"""Data sets: one file each; the file's name is the name in params.yaml."""

from pipeline.datasets.base import Box, Dataset, Photograph
from pipeline.registry import Registry

DATASETS: Registry[type[Dataset]] = Registry("dataset", "pipeline.datasets")

__all__ = ["DATASETS", "Box", "Dataset", "Photograph"]
