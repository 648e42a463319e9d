"""Frozen networks whose layers are inverted: one forward pass, every requested layer, honest weights, and the only
normalisation. May import core.
"""
