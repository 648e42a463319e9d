"""Training of one experiment: the read-out in closed form, the decoder by gradient descent (the fitter trains any
module), losses (`terms`, one file each) and optimisers. May import core, stores, metrics, loading and models.
"""
