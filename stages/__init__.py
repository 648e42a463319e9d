"""Thin command-line stages: load params, call the library, write its results. DVC runs the same functions."""
