"""The read-out as a decoder of its own: what is linearly decodable, solved in closed form."""

from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.linear import Linear

DECODERS.register("linear")(Linear)
