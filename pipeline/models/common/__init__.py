"""Shared parts of inverters: the inverter itself, its checkpoint, the read-out and its solution, the contracts of
decoders and fusions, and the Gaussian prior of photographs.
"""
