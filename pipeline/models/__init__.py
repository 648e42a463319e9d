"""Inverters: all that turns features into an image. Decoders and fusions are one file each; `common` holds what they
share. May import core, stores and loading.
"""
