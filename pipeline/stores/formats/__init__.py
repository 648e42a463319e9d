"""Formats of feature stores: one file each; the file's name is the name in params.yaml (`store.format`)."""
