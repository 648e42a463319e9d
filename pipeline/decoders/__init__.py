"""Decoders: features of one layer to an image. One file each; the file's name is the decoder's name."""

from pipeline.decoders.base import DECODERS, Decoder, build_decoder

__all__ = ["DECODERS", "Decoder", "build_decoder"]
