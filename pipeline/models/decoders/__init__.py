"""Decoders, from the features of one layer to an image: one file each; the file's name is the decoder's name."""
