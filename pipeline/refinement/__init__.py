"""What a layer holds: its cached features matched again through the known, frozen network."""

from pipeline.refinement._misleading import VALIDATION_IMAGES, misleading
from pipeline.refinement.base import REFINERS, Examples, KnownLayer, Refiner, Step, build_refiner

__all__ = ["REFINERS", "VALIDATION_IMAGES", "Examples", "KnownLayer", "Refiner", "Step", "build_refiner", "misleading"]
