"""The base of every other package: errors, atomic files, locks, progress, registries, params.yaml, names of sources and
shapes, device and precision, and the list of files that each stage runs. Imports no other package.
"""
