"""layers: what each layer adds to an inverter of many layers, from a study of its subsets."""

from collections.abc import Sequence
from pathlib import Path

import typer

from pipeline.core.paths import Paths
from pipeline.experiments.study.experiments import finished
from pipeline.experiments.study.layers import LayerSets, write_contributions
from stages.loading import load_checked
from stages.options import METRICS, PARAMS
from stages.study import checked, require_success, run_missing, show


def layers(jobs: int | None, dry_run: bool, overrides: Sequence[str], out: Path | None, metric: str) -> None:
    """Run the experiments of the subsets that have no result yet, and write the contributions."""
    sets = LayerSets.of(load_checked(PARAMS, overrides), overrides)
    loaded = sets.study
    wanted = checked(loaded)
    done = finished(wanted)
    if dry_run:
        show(loaded, wanted, done, Paths.below(Path()).data)
        return
    require_success(loaded, run_missing(loaded, done, jobs))
    output = out or METRICS / "studies" / loaded.name
    typer.echo(write_contributions(sets, output, metric))
    typer.echo(f"figure: {output / 'layers.svg'}")
