"""check: report every problem of params.yaml, including incompatible choices. The first stage of the graph."""

import typer

from pipeline.core.params import Params
from stages import proof


def check(settings: Params) -> None:
    """Check every network, chosen or not, and remember that all of `settings` is valid.

    `settings` comes from `load_checked`. Libraries of networks are loaded only for what was not proved before.
    """
    if not proof.proved(settings):
        if proof.shapes(settings) is None:
            from stages.networks import check_networks

            proof.remember_shapes(settings, check_networks(settings))
        proof.remember(settings)
    if any(settings.backbone_params(source.backbone).kind == "imagenet" for source in settings.sources):
        from stages.networks import missing_weights

        for note in missing_weights(settings):
            typer.echo(note, err=True)
