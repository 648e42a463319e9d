"""weights without names: list the weights of each entry. Loads torch only if an entry has `weights: imagenet`."""

from collections.abc import Mapping

import typer

from pipeline.core.params import BackboneParams
from pipeline.experiments import weights_list


def list_weights(entries: Mapping[str, BackboneParams]) -> None:
    """Print a line for each network of params.yaml, and one for LPIPS."""
    for line in weights_list.lines(entries):
        typer.echo(line)
