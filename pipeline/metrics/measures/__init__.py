"""Metrics: one file each; the file's name is the metric's name in metrics.json."""
