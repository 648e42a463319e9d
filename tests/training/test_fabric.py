"""Which device and which precision Fabric is asked for."""

import pytest
import torch
from devices import DEVICES

from pipeline.training.fabric import build_fabric, fabric_devices, fabric_precision


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", 1), ("cuda", [0]), ("cuda:0", [0]), ("cuda:1", [1]), ("cuda:3", [3])]
)
def test_the_gpu_that_was_chosen_is_the_one_that_trains(device: str, expected: list[int] | int) -> None:
    assert fabric_devices(torch.device(device)) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_the_fabric_is_on_the_device(device: str) -> None:
    assert build_fabric("auto", torch.device(device)).device.type == device


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        *(("auto", "cpu", "32-true"), ("auto", "cuda:1", "bf16-mixed")),
        *(("fp32", "cuda", "32-true"), ("bf16", "cpu", "bf16-mixed")),
    ],
)
def test_the_precision(name: str, device: str, expected: str) -> None:
    assert fabric_precision(name, torch.device(device)) == expected
