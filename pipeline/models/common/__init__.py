"""What all inverters share: the inverter itself, its checkpoint, the linear read-out and its closed form, the
contracts of decoders and fusions and their common parts, and the Gaussian model of photographs (the prior).
"""
