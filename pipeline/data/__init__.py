"""Data sets of photographs (`datasets`, one file each) and their preparation (`preparation`). May import core and
stores.
"""
