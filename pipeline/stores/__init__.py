"""Data on disk that stages read by row: prepared photographs, and feature stores (one layer of one backbone, with its
manifest). Formats of feature stores are one file each in `formats`. May import core.
"""
