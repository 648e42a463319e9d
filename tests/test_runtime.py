"""Devices that are not there, and seeds."""

import pytest
import torch

from pipeline.errors import DeviceError
from pipeline.runtime import choose_device, seed_everything, source_digest


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", "CPU", ""])
def test_an_unknown_device(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        choose_device(name)
    assert str(caught.value) == f"--device {name} is unknown; use auto, cpu, cuda or cuda:N"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        choose_device(name)
    assert str(caught.value) == f"--device {name}: no CUDA device is visible here; use --device auto or cpu"


def test_auto_and_cpu() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_seeds_repeat() -> None:
    drawn = []
    for _ in range(2):
        seed_everything(3)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_the_source_digest_is_stable() -> None:
    assert source_digest() == source_digest()
    assert len(source_digest()) == 64
