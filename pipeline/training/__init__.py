"""One experiment's training: the read-out in closed form, the decoder by gradient descent on any module (fitter),
losses (`terms`, one file each) and optimisers. May import core, stores, metrics, loading and models.
"""
