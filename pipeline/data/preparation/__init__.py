"""From the files of a data set to prepared photographs: the contract of a data set, listing, decoding, splits and
views.
"""
