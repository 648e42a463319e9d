"""The devices a test runs on: its body is proven on the CPU, and runs on CUDA where there is a GPU."""

from __future__ import annotations

import pytest
import torch

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ("cpu", pytest.param("cuda", marks=(pytest.mark.gpu, no_gpu)))
