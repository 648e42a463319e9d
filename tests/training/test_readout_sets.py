"""The read-out of a set of sources: never worse than its best member, whatever the sources are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from messages import says
from numpy.typing import NDArray
from small_experiment import CPU, PARAMS
from torch import Tensor

from benchmarks import readout_sets
from pipeline.core.errors import DeviceError
from pipeline.core.params import load_params
from pipeline.core.sources import FeatureShape, ImageSize, Inputs, Source
from pipeline.loading.loader import Batch
from pipeline.models.common.checkpoint import save_model
from pipeline.models.common.inverter import Blueprint, Inverter, load_inverter
from pipeline.training.readout import load_readout, readout_state, solve_readout

EDGE, TRAIN, VALIDATION = 16, 60, 20
NOISE = 0.05  # dB


@cache
def images() -> Tensor:
    """Smooth shapes with some texture."""
    random = torch.Generator().manual_seed(0)
    count = TRAIN + VALIDATION
    coarse, fine = (torch.rand(count, 3, size, size, generator=random) for size in (4, EDGE))
    return (F.interpolate(coarse, (EDGE, EDGE), mode="bicubic") + 0.2 * fine).clamp(0, 1)


def _mixed(ratio: int, channels: int, seed: int, scale: float = 1.0, noise: float = 0.02) -> Tensor:
    """Channels of a random mixture of the pixels under each feature, rectified."""
    random = torch.Generator().manual_seed(seed)
    blocks = F.pixel_unshuffle(images() - 0.5, ratio)
    mixing = torch.randn(channels, blocks.shape[1], generator=random) / blocks.shape[1] ** 0.5
    features = F.leaky_relu(torch.einsum("oc,bchw->bohw", mixing, blocks), 0.5)
    return scale * (features + noise * torch.randn(features.shape, generator=random))


@cache
def sources() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(9)
    return {
        "poor.fine": _mixed(1, 1, 1, noise=2.0),
        "good.narrow": _mixed(2, 6, 2),
        "good.wide": _mixed(4, 258, 3, scale=2.0**-20),  # 1×1 alone, and beside what is 3×3
        "good.tokens": _mixed(4, 44, 4, noise=0.001),  # what is inside a coarse feature, in its channels
        "other.tokens": _mixed(8, 20, 5, scale=2.0**12),
        "pure.noise": torch.randn(TRAIN + VALIDATION, 9, 4, 4, generator=random),
        "odd.grid": F.interpolate(_mixed(4, 6, 6), (3, 5), mode="bilinear"),  # no linear decoder alone
        "dead.zero": torch.zeros(TRAIN + VALIDATION, 5, 8, 8),
        "dead.constant": torch.full((TRAIN + VALIDATION, 3, 2, 2), 0.3),
        "good.twice": _mixed(2, 6, 2),  # equal to good.narrow
    }


@cache
def further() -> dict[str, Tensor]:
    """More layers, of which an inverter takes many at once."""
    ratios = (2, 2, 4, 4, 8)
    return {f"many.block{place}": _mixed(ratio, 5 + place, 20 + place) for place, ratio in enumerate(ratios)}


class Rows:
    """`PreparedData` and `CachedFeatures` of features held in memory."""

    def __init__(self, names: Iterable[str]) -> None:
        self.features = [(sources() | further())[name] for name in names]

    def rows(self, split: str) -> NDArray[np.int64]:
        return {"train": np.arange(TRAIN), "validation": np.arange(TRAIN, TRAIN + VALIDATION)}[split]

    def batches(self, parts: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        for rows in parts:
            yield Batch(rows, Inputs(tuple(each[rows] for each in self.features)), images()[rows])


@cache
def solved(*names: str) -> Inverter:
    """`decoder: linear` as `train` fits it; `names` in order."""
    data = Rows(names)
    shapes = {Source.parse(name): FeatureShape(*(sources() | further())[name].shape[1:]) for name in names}
    params = load_params(PARAMS, ("decoder=linear",))
    inverter = Inverter(Blueprint.of(params, shapes, ImageSize(EDGE, EDGE)))
    train = [each[:TRAIN].double() for each in data.features]
    inverter.fit_statistics([(x.mean((0, 2, 3)).float(), x.std((0, 2, 3)).float()) for x in train])
    _in_units_of_one(inverter)
    load_readout(inverter, readout_state(solve_readout(inverter, data, data)))  # type: ignore[arg-type]
    return inverter


def _in_units_of_one(inverter: Inverter) -> None:
    """What is wanted of a layer of small features, whatever `Standardise` takes for a constant channel."""
    for standardise, name in zip(inverter.standardise, inverter.blueprint.sources, strict=True):
        if name == "good.wide":
            std = sources()[name][:TRAIN].double().std((0, 2, 3))
            standardise.scale.copy_(std.reciprocal().float()[:, None, None])


@torch.no_grad()
def decibels(*names: str) -> float:
    """PSNR of the mean error on validation images; not clamped, as the read-out sees it."""
    names = tuple(sorted(names))
    (batch,) = (data := Rows(names)).batches([data.rows("validation")])
    error = (solved(*names).train()(batch.inputs) - batch.targets).double().square().mean()
    assert error.isfinite()
    return float(-10 * error.log10())


def _solvable(names: tuple[str, ...]) -> bool:
    """Whether the common grid is one of whole blocks of pixels."""
    height, width = (max(sources()[name].shape[axis] for name in names) for axis in (2, 3))
    return height == width and EDGE % height == 0


DEAD = {"dead.zero", "dead.constant"}
EACH_ONCE = sorted(sources().keys() - {"good.twice"})
SETS = [
    each for size in (2, 3) for each in combinations(EACH_ONCE, size) if _solvable(each) and len(DEAD & {*each}) < 2
]
TWICE = [("good.narrow", "good.twice"), ("good.narrow", "good.twice", "poor.fine")]


@pytest.mark.slow
@pytest.mark.parametrize("names", SETS + TWICE, ids="+".join)
def test_a_set_is_as_good_as_its_best_member(names: tuple[str, ...]) -> None:
    members = {name: decibels(name) for name in names if _solvable((name,))}
    assert decibels(*names) >= max(members.values()) - NOISE, members


MANY = (*further(), *sorted(sources().keys() - {"good.twice", "poor.fine", "odd.grid"}))


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, len(MANY)])
def test_many_layers_are_as_good_as_the_best_and_better_than_few(count: int) -> None:
    names = MANY[:count]
    assert decibels(*names) >= max(decibels(name) for name in names) - NOISE
    assert decibels(*names) >= decibels(*names[:2]) - NOISE


def test_a_set_that_does_not_fit_the_memory_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.readout.free_memory", lambda device: 1e4)
    solved.cache_clear()
    with pytest.raises(DeviceError) as caught:
        solved("good.narrow", "good.wide")
    says(caught.value, "2 sources, 312 unknowns", "GB free", "fewer layers", "decoders.linear.kernel: 1")


def test_the_size_of_a_set_is_stated_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    solved.cache_clear()
    solved("good.narrow", "good.wide")
    assert capsys.readouterr().err.startswith("read-out: 2 sources, 312 unknowns for each value: 0.0 GB of memory\n")


@pytest.mark.slow
def test_a_set_of_a_trained_network_is_as_good_as_its_best_member_on_photographs() -> None:
    """At 224 pixels, where published sets are compared. Of VGG-16 it takes half a minute: docs/decoders.md."""
    *members, both = readout_sets.measure(readout_sets.SETS[0], readout_sets.photographs())
    assert min(members) > 10
    assert both >= max(members) - NOISE


def test_each_source_keeps_its_kernel_and_only_what_gains_by_it_is_read_apart() -> None:
    mixed = solved("good.narrow", "good.wide")
    assert mixed.blueprint.kernels == (3, 1)
    assert mixed.linear is not None
    shapes = {name: tuple(each.shape) for name, each in mixed.linear.named_parameters() if name.endswith("weight")}
    assert shapes == {"output.weight": (12, 6, 3, 3), "others.0.weight": (12, 258, 1, 1)}
    assert solved("good.tokens", "poor.fine").blueprint.apart == (0,)
    assert solved("good.narrow", "other.tokens").blueprint.apart == ()


def test_what_was_solved_is_saved_and_loaded(tmp_path: Path) -> None:
    names = ("good.tokens", "good.wide", "poor.fine")
    inverter = solved(*names).eval()
    save_model(tmp_path, inverter.state_dict(), {"blueprint": inverter.blueprint.plain()})
    (batch,) = Rows(names).batches([np.arange(4)])
    with torch.no_grad():
        assert torch.equal(load_inverter(tmp_path, CPU)(batch.inputs), inverter(batch.inputs))


def test_a_model_of_before_kernels_of_sources_has_the_one_of_all_channels(tmp_path: Path) -> None:
    inverter = Inverter(_older(((6, 8, 8), (258, 4, 4))))
    assert inverter.linear is not None
    assert inverter.linear.output.weight.shape == (12, 264, 1, 1)
    description = inverter.blueprint.plain()
    del description["kernels"], description["apart"]
    save_model(tmp_path, inverter.state_dict(), {"blueprint": description})
    inputs = Inputs((torch.randn(1, 6, 8, 8), torch.randn(1, 258, 4, 4)))
    with torch.no_grad():
        assert torch.equal(load_inverter(tmp_path, CPU)(inputs), inverter.eval()(inputs))


def _older(shapes: tuple[tuple[int, int, int], ...]) -> Blueprint:
    return Blueprint(
        sources=("a.x", "b.y"), shapes=shapes, image=(EDGE, EDGE), decoder="linear",
        decoder_options={"kernel": None}, fusion="none", fusion_options={}, linear=None,
    )  # fmt: skip


@pytest.mark.parametrize("names", [("dead.zero",), ("dead.constant",), ("dead.constant", "dead.zero")], ids="+".join)
def test_where_nothing_varies_the_image_is_the_mean_colour(names: tuple[str, ...]) -> None:
    (batch,) = Rows(names).batches([np.arange(2)])
    with torch.no_grad():
        blocks = F.pixel_unshuffle(solved(*names).eval()(batch.inputs), solved(*names).linear.ratio)
    mean = F.pixel_unshuffle(images()[:TRAIN].double(), solved(*names).linear.ratio).mean((0, 2, 3))
    torch.testing.assert_close(blocks, mean.float()[:, None, None].expand(blocks.shape), rtol=0, atol=1e-5)


def test_where_one_edge_shrinks_features_are_averaged_and_not_skipped() -> None:
    inverter = Inverter(_older(((1, 4, 4), (1, 4, 4))))
    stripes = torch.zeros(1, 1, 2, 300)
    stripes[..., ::2] = 1
    torch.testing.assert_close(inverter.stack([stripes]), torch.full((1, 1, 4, 4), 0.5), rtol=0, atol=0.02)
