"""Data sets: one file each; the file's name is the name in params.yaml."""
