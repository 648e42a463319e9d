"""Batches of features and target crops, read ahead: loader, its slots, sampler, and the stores of an experiment. May
import core and stores.
"""
