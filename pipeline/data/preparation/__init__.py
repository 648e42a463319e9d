"""Preparation of photographs: the contract of a data set, listing of files, decoding, splits and views."""
