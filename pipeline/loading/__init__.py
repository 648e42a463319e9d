"""Batches of features and target crops, prefetched: the loader, its buffers, the sampler, and the stores of an
experiment. May import core and stores.
"""
