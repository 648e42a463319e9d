"""`python -m benchmarks.trained_or_random`: what training does to invertibility, from the experiments of its study.

Run the study first. This reads its experiments, for each stage of the decoder with the higher validation PSNR of those
that have run on all four networks, prints the tables of docs/trained_or_random, and writes its figure and
differences.csv. Differences are paired by photograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.core.files import write_whole
from pipeline.core.tables import markdown_table
from pipeline.evaluation.bootstrap import bootstrap_means
from pipeline.evaluation.plots import STYLE
from pipeline.experiments.comparison import RESAMPLES, SEED
from pipeline.experiments.found import Experiment, opened
from pipeline.experiments.study.experiments import existing
from pipeline.experiments.study.figures import svg

OUTPUT = Path("docs/trained_or_random")
STAGES, SEEDS = ("stage1", "stage2", "stage3", "stage4", "stage5"), ("0", "1", "2")
DECODERS, DTYPES = ("residual", "wavelet"), ("float32", "float16", "int8")
PREFIX = "trained_or_random-efficientnet_lite0"
COLUMNS = {"linear": "linear_psnr", "decoder": "psnr", "refined": "refined_psnr"}  # → column of per_image.csv
NUMBERS = ("bicubic", "trained", "random", "seeds")
DECIBELS = "{:.2f}"


def main() -> None:
    names = [f"{PREFIX}.{stage}-{decoder}{seed}" for stage in STAGES for decoder in DECODERS for seed in _endings()]
    stored = [f"{PREFIX}.{stage}-{dtype}" for stage in STAGES for dtype in DTYPES]
    with opened(sorted(existing([*names, *stored]))) as read:
        found = {each.name.removeprefix(f"{PREFIX}."): each for each in read}
    table = differences(found)
    with (OUTPUT / "differences.csv").open("w") as file:
        table.to_csv(file, index=False, float_format="%.5g", lineterminator="\n")
    write_whole(OUTPUT / "trained_or_random.svg", figure(table).encode())
    print(as_markdown(table), stored_types(found), sep="\n\n")


def differences(found: Mapping[str, Experiment]) -> pd.DataFrame:
    """A row for each stage and way back: mean PSNR of the trained network, of three random ones, and the difference.

    low, high: the 95 % interval of the difference, over photographs; each photograph's own is that between the trained
    network and the mean over the seeds. seeds: the standard deviation of the random networks' means.
    """
    rows = []
    for stage in STAGES:
        decoder = _better(found, stage)
        trained, *random = (found[f"{stage}-{decoder}{ending}"].per_image for ending in _endings())
        for way, column in COLUMNS.items():
            seeds = np.stack([each[column].to_numpy() for each in random])
            gains = trained[column].to_numpy() - seeds.mean(0)
            means = bootstrap_means(gains[:, None], trained["photograph"].tolist(), RESAMPLES, SEED)[:, 0]
            low, high = np.quantile(means, (0.025, 0.975))
            rows.append(
                {
                    "stage": stage,
                    "way": f"{way}, {decoder}" if way == "decoder" else way,
                    "bicubic": trained["bicubic_psnr"].mean(),
                    "trained": trained[column].mean(),
                    "random": seeds.mean(),
                    "seeds": seeds.mean(1).std(ddof=1),
                    "difference": gains.mean(),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame) -> str:
    header = ["stage", "bicubic", "way back", "trained", "random (σ of 3 seeds)", "trained − random [95 %]"]
    lines = []
    for row in table.to_dict("records"):
        bicubic, trained, random, seeds = (
            DECIBELS.format(row[key]) for key in ("bicubic", "trained", "random", "seeds")
        )
        difference = "{difference:+.2f} [{low:+.2f}, {high:+.2f}]".format(**row)
        lines.append([row["stage"], bicubic, row["way"], trained, f"{random} ({seeds})", difference])
    return markdown_table(header, lines)


def stored_types(found: Mapping[str, Experiment]) -> str:
    """The read-out from features of the trained network stored in each type, mean PSNR in dB."""
    rows = [
        [stage, *(f"{found[f'{stage}-{dtype}'].per_image['psnr'].mean():.3f}" for dtype in DTYPES)] for stage in STAGES
    ]
    return markdown_table(["stage", *DTYPES], rows)


def figure(table: pd.DataFrame) -> str:
    """PSNR by depth, one panel for each way back: trained, random, and the bicubic floor, as SVG."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(9, 3), layout="constrained")
        axes = drawn.subplots(1, len(COLUMNS), sharey=True)
        for place, way in zip(axes, COLUMNS, strict=True):
            rows = table[table["way"].str.startswith(way)]
            place.plot(rows["stage"], rows["trained"], marker="o", label="trained")
            place.errorbar(rows["stage"], rows["random"], rows["seeds"], marker="s", label="random, 3 seeds")
            place.plot(rows["stage"], rows["bicubic"], color="grey", linestyle=":", label="bicubic thumbnail")
            place.set(title=way, xlabel="layer")
        axes[0].set_ylabel("PSNR, dB")
        axes[-1].legend(frameon=False)
        drawn.suptitle("efficientnet_lite0 · package or random weights · 100 photographs", fontsize="medium")
        return svg(drawn)


def _endings() -> tuple[str, ...]:
    """Of an experiment's name: the trained network, then each random one."""
    return ("", *(f"-{seed}" for seed in SEEDS))


def _better(found: Mapping[str, Experiment], stage: str) -> str:
    """The decoder with the higher validation PSNR, over all four networks."""
    validation = {}
    for decoder in DECODERS:
        names = [f"{stage}-{decoder}{ending}" for ending in _endings()]
        curves = [found[name].curves for name in names if name in found]
        best = [each["validation_psnr"].max() for each in curves if each is not None]
        if len(best) == len(names):
            validation[decoder] = np.mean(best)
    return max(validation, key=validation.__getitem__)


if __name__ == "__main__":
    main()
