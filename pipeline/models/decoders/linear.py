"""The read-out by itself, as a decoder: what is linearly decodable, solved in closed form."""

from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.linear import Linear

DECODERS.register("linear")(Linear)
