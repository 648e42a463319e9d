"""One pass of a frozen backbone over all rows; every layer that is asked for becomes a feature store. May import
core, stores and backbones.
"""
