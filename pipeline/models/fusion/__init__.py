"""Fusions of several sources into one: one file each; the file's name is the fusion's name."""
