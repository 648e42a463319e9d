"""The folders that a run reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LINEAR_FOLDER = "linear"  # folder of the read-out from which the decoder started, itself a saved model
LEARNED = "refiner.safetensors"  # in two stages: the tensors that the first stage learned


@dataclass(frozen=True)
class Paths:
    """The folders of a run; each stage writes one of them and reads those of earlier stages."""

    data: Path
    prior: Path
    first_stage: Path
    features: Path
    models: Path
    metrics: Path
    work: Path  # unfinished work, which a killed run resumes

    @classmethod
    def below(cls, root: Path, **elsewhere: Path | None) -> Paths:
        """The folders of the project in `root`; `elsewhere` replaces single ones, by field name."""
        usual = {
            "data": root / "data/prepared",
            "prior": root / "data/prior",
            "first_stage": root / "data/first_stage",
            "features": root / "features",
            "models": root / "models",
            "metrics": root / "metrics",
            "work": root / ".work",
        }
        return cls(**usual | {name: place for name, place in elsewhere.items() if place is not None})

    @property
    def curves(self) -> Path:
        """The CSV file with one row for each epoch of the training."""
        return self.metrics / "training.csv"
