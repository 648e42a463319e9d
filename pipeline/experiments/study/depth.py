"""Results by depth: the same photographs reconstructed from every layer of a network, and a table of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.core.tables import markdown_table
from pipeline.evaluation.pictures import Picture
from pipeline.evaluation.report import weights
from pipeline.experiments.comparison import strip
from pipeline.experiments.found import Experiment
from pipeline.experiments.study.figures import by_network
from pipeline.experiments.study.grid import Configuration

HEADER = {
    "layer": "layer",
    "shape": "features",
    "bits": "bits per pixel",
    "bicubic": "bicubic",
    "linear": "linear",
    "psnr": "best decoder",
    "refined": "upper bound",
    "ssim": "SSIM",
    "decoder": "decoder",
}  # of the Markdown table, by column of `depth_table`
FORMATS = {"bits": "{:.4g}", "ssim": "{:.4f}"} | dict.fromkeys(("bicubic", "linear", "psnr", "refined"), "{:.2f}")


def best_by_layer(
    configurations: Sequence[Configuration],
    experiments: Mapping[str, Experiment],
    depths: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Experiment]]:
    """The experiment with the highest PSNR of each layer, for every network with several layers in the study.

    Ensembles are left out.

    Args:
        depths: the layers of each network, shallow to deep.

    Returns:
        Network → layer → experiment, with layers shallow to deep.
    """
    best: dict[str, Experiment] = {}
    for each in configurations:
        found = experiments[each.name]
        if each.source not in best or _mean(found, "psnr") > _mean(best[each.source], "psnr"):
            best[each.source] = found
    return {
        network: {layer: best[f"{network}.{layer}"] for layer in layers}
        for network, layers in by_network(list(best), depths).items()
    }


def depth_table(layers: Mapping[str, Experiment]) -> pd.DataFrame:
    """A row for each layer of one network: means over the test images, in dB except `ssim` and `bits`.

    Columns: layer, shape, bits (of the stored features per pixel), bicubic, linear, psnr and ssim of the decoder,
    refined (NaN without refinement), decoder.
    """
    return pd.DataFrame(_row(layer, experiment) for layer, experiment in layers.items())


def depth_markdown(layers: Mapping[str, Experiment]) -> str:
    """`depth_table` as a Markdown table, with the weights of the network and the data set below."""
    protocol = next(iter(layers.values())).protocol
    rows = (
        ["–" if pd.isna(row[key]) else FORMATS.get(key, "{}").format(row[key]) for key in HEADER]
        for _, row in depth_table(layers).iterrows()
    )
    table = markdown_table([*HEADER.values()], rows)
    return f"{table}\n\n{weights(protocol)} · {protocol['data']['dataset']}"


def depth_picture(layers: Mapping[str, Experiment]) -> Picture | None:
    """A row for each photograph that all experiments saved: original, then its reconstruction from each layer.

    Captions give PSNR, SSIM and bits per pixel, and over the original the weights of the network. None if no
    photograph is common to the experiments.
    """
    first, *_ = layers.values()
    return strip([*layers.values()], _layer_and_scores, weights(first.protocol))


def _layer_and_scores(experiment: Experiment, image: str) -> str:
    (source,), scores = experiment.protocol["features"], experiment.per_image.loc[image]
    bits = FORMATS["bits"].format(experiment.metrics["features"]["bits_per_pixel"])
    return f"{source.partition('.')[2]}  {scores['psnr']:.2f} dB\nSSIM {scores['ssim']:.3f}, {bits} bits/pixel"


def _row(layer: str, experiment: Experiment) -> dict[str, Any]:
    (features,) = experiment.protocol["features"].values()
    blueprint, floors = experiment.protocol["model"]["blueprint"], experiment.metrics["floors"]
    psnr = _mean(experiment, "psnr")
    linear = {"psnr": psnr if blueprint["decoder"] == "linear" else None}  # the read-out is its own floor
    refined = experiment.per_image.get("refined_psnr")
    return {
        "layer": layer,
        "shape": features["shape"],
        "bits": experiment.metrics["features"]["bits_per_pixel"],
        "bicubic": floors["bicubic"]["psnr"],
        "linear": floors.get("linear", linear)["psnr"],
        "psnr": psnr,
        "ssim": _mean(experiment, "ssim"),
        "refined": None if refined is None else refined.mean(),
        "decoder": blueprint["decoder"],
    }


def _mean(experiment: Experiment, metric: str) -> float:
    return float(experiment.metrics[metric]["mean"])
