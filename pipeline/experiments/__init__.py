"""Work with whole experiments: comparison, reconstruction of any photograph, the first of two stages, plans, weights
carried to another machine, and studies through DVC's queue. May import every other package.
"""
