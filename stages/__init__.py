"""Thin command-line stages: load params, call the library, write. DVC runs these very functions."""
