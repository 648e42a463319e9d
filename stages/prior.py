"""`python -m stages prior`: what photographs look like, for refinements that ask for the most probable one."""

from stages.options import PARAMS, PREPARED, PRIOR, Overrides, ParamsFile, PreparedDir, PriorDir


def prior(
    data: PreparedDir = PREPARED,
    prior: PriorDir = PRIOR,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Fit the image prior, a colour covariance for each spatial frequency, on the training photographs."""
    from stages.loading import load_checked

    load_checked(params, overrides)

    from pipeline.models.common.prior import fit_prior
    from pipeline.stores.prepared import PreparedData

    fit_prior(PreparedData.open(data), prior)
