"""Changed features: coarse as int8 stores them, noise of the stated size, and the mean where nothing is left."""

import pytest
import torch
from small_experiment import CPU, experiment

from pipeline.core.sources import FeatureShape
from pipeline.experiments.reconstruction import Encoder, load_encoder
from pipeline.experiments.tampering import Tampering, quantised, row_bytes, tampered
from pipeline.stores.encoding import as_stored, rgb


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    made = experiment("linear")
    return load_encoder(made.models, made.params, CPU)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    data = experiment("linear").data()
    return rgb(torch.from_numpy(data.crops(data.rows("test")[:2])))


def seen(monkeypatch: pytest.MonkeyPatch, encoder: Encoder, images: torch.Tensor, change: Tampering) -> torch.Tensor:
    """The features that reach the decoder."""
    found = []
    decode = Encoder.decode
    monkeypatch.setattr(Encoder, "decode", lambda self, features: found.append(features[0]) or decode(self, features))
    tampered(encoder, images, change)
    return found[0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_eight_bits_are_those_of_an_int8_store(scale: float) -> None:
    features = torch.randn(2, 5, 7, 7, generator=torch.Generator().manual_seed(0)) * scale
    torch.testing.assert_close(quantised(features, 8), as_stored(features, "int8"), rtol=1e-5, atol=scale * 1e-5)


def test_one_bit_leaves_two_values_and_a_constant_stays() -> None:
    features = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    features[:, 1] = 3
    coarse = quantised(features, 1)
    assert set(coarse[0, 0].unique().tolist()) == {float(features[0, 0].min()), float(features[0, 0].max())}
    assert (coarse[0, 1] == 3).all()


def test_the_channels_that_vary_most_stay(
    monkeypatch: pytest.MonkeyPatch, encoder: Encoder, images: torch.Tensor
) -> None:
    (whole,) = encoder.features(images)
    kept = seen(monkeypatch, encoder, images, Tampering(top=5))
    mean = encoder.inverter.standardise[0].mean.float()
    for before, after in zip(whole, kept, strict=True):
        strongest = set(before.flatten(1).std(dim=1).topk(5).indices.tolist())
        same = {channel for channel in range(len(before)) if torch.equal(before[channel], after[channel])}
        assert strongest <= same
        for channel in set(range(len(before))) - strongest:
            assert torch.equal(after[channel], mean[channel].expand_as(after[channel]))


def test_noise_is_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch, encoder: Encoder, images: torch.Tensor) -> None:
    (whole,) = encoder.features(images)
    noisy = seen(monkeypatch, encoder, images, Tampering(noise=0.5))
    shares = (noisy - whole) * encoder.inverter.standardise[0].scale
    alive = encoder.inverter.standardise[0].scale.flatten() > 0
    assert float(shares[:, alive].std()) == pytest.approx(0.5, rel=0.02)


def test_bytes_are_those_of_a_store() -> None:
    shape = FeatureShape(3, 4, 5)
    assert [row_bytes(shape, dtype) for dtype in ("float32", "float16", "int8")] == [240, 120, 60 + 3 * 8]
