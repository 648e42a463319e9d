"""Fusions: several sources to one. One file each; the file's name is the fusion's name."""
