"""Frozen networks whose layers are inverted: one forward pass computes every requested layer; weights are checked and
recorded; images are normalised here only. May import core.
"""
