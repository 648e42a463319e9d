"""prior: what photographs look like, for refinements that ask for the most probable one."""

from pipeline.core.paths import Paths
from pipeline.models.common.prior import fit_prior
from pipeline.stores.prepared import PreparedData


def prior(paths: Paths) -> None:
    fit_prior(PreparedData.open(paths.data), paths.prior)
