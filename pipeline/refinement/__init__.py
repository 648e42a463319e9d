"""Upper bounds by optimisation: cached features matched again through the known, frozen network (`refiners`, one
file each). May import core, stores, backbones, metrics, loading and models.
"""
