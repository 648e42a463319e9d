"""Scores of a trained inverter on the test split, beside floors and ceilings; records, pictures, plots and the report.
May import core, stores, metrics, loading, models and refinement.
"""
