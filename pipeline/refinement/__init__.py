"""Upper bounds by optimisation: refiners (one file each) search for the image whose features, computed by the known
network, match the cached ones. May import core, stores, backbones, metrics, loading and models.
"""
