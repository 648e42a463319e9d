"""One pass of a frozen backbone over all rows; every layer it is asked for becomes a feature store."""

from pipeline.extraction.job import layouts, store_facts
from pipeline.extraction.plan import BackbonePlan, estimate_seconds, plan_backbone, plan_first_stage
from pipeline.extraction.run import extract, require_space

__all__ = [
    "BackbonePlan",
    "estimate_seconds",
    "extract",
    "layouts",
    "plan_backbone",
    "plan_first_stage",
    "require_space",
    "store_facts",
]
