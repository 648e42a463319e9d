"""What all inverters share: the inverter itself, its checkpoint, the read-out and its solution, the
contracts of decoders and fusions and their common parts, and the Gaussian model of photographs (the prior).
"""
