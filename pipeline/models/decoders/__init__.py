"""Decoders: features of one layer to an image. One file each; the file's name is the decoder's name."""
