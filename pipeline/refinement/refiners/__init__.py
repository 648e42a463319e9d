"""Refiners: one file each; the file's name is the refiner's name."""
