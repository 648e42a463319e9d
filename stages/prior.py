"""prior: fit the Gaussian prior of photographs, which the refiner `map` needs."""

from pipeline.core.paths import Paths
from pipeline.models.common.prior import fit_prior
from pipeline.stores.prepared import PreparedData


def prior(paths: Paths) -> None:
    fit_prior(PreparedData.open(paths.data), paths.prior)
