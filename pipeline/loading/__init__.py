"""Batches of features and target crops, read ahead: loader, prefetch, sampler, and the stores of an experiment. May
import core and stores.
"""
