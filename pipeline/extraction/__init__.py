"""One pass of a frozen backbone over all rows; every layer it is asked for becomes a feature store."""

from pipeline.extraction.job import layouts, store_facts
from pipeline.extraction.run import extract, require_space, write_nothing

__all__ = ["extract", "layouts", "require_space", "store_facts", "write_nothing"]
