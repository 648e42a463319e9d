"""Scoring a trained inverter on the test split, beside what its scores are worth."""

from pipeline.evaluation.run import evaluate

__all__ = ["evaluate"]
