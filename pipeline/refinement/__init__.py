"""What a layer holds: its cached features matched again through the known, frozen network."""

from pipeline.refinement.base import REFINERS, Examples, KnownLayer, Refiner, Step, build_refiner

__all__ = ["REFINERS", "Examples", "KnownLayer", "Refiner", "Step", "build_refiner"]
