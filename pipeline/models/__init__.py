"""Inverters, which turn features into an image. Decoders and fusions are one file each; `common` holds their shared
parts. May import core, stores and loading.
"""
