"""Feature inversion: how much of a photograph survives in a layer, and which decoder gets it back.

Packages, from the bottom up; each imports only from those before it: core, stores, data, backbones, metrics,
extraction, loading, models, refinement, training, evaluation, experiments.
"""
