"""Extraction: one pass of a frozen backbone over all rows writes a feature store for every requested layer. May import
core, stores and backbones.
"""
