"""`python -m benchmarks.attention_memory`: peak memory of training one `attention` block, against a naive softmax.

Each measurement is a process of its own: forward and backward of one block of 64 channels and 8 heads, the one
that `vgg16.block1` gets, on up to 112×112 = 12,544 tokens. Peak is what the step added to the resident memory (CPU,
Linux only) or to the allocated memory (CUDA). A naive step that would not fit is not run, and the line says so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import time
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.parts.tokens import TransformerBlock

CHANNELS, HEADS, MLP_RATIO = 64, 8, 4
TOKENS = (784, 3136, 12544)  # 28×28, 56×56, 112×112
HELD_AT_ONCE = 3  # naive score matrices in the backward pass: the softmax, its gradient, the scores' gradient
MEGABYTE = 1e6


class NaiveBlock(TransformerBlock):
    """The same block, with all pairs of tokens written out."""

    def attend(self, tokens: Tensor) -> Tensor:
        split = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind()
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (B, heads, N, N)
        return self.project((torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2))


def step(kind: str, tokens: int, device: torch.device) -> tuple[float, float]:
    """Peak megabytes and seconds of one training step."""
    torch.manual_seed(0)
    block = (NaiveBlock if kind == "naive" else TransformerBlock)(CHANNELS, HEADS, MLP_RATIO).to(device)
    block(torch.randn(1, 16, CHANNELS, device=device)).sum().backward()  # libraries allocate their own on first use
    features = torch.randn(1, tokens, CHANNELS, device=device, requires_grad=True)
    start, before = time.perf_counter(), _reset_peak(device)
    block(features).sum().backward()
    peak = _peak(device)
    return (peak - before) / MEGABYTE, time.perf_counter() - start


def _reset_peak(device: torch.device) -> float:
    """Bytes in use now; from here on `_peak` counts."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return _kilobytes("/proc/self/status", "VmRSS") * 1024


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def _kilobytes(file: str, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
    assert found is not None, f"{file} has no {key}"
    return int(found[1])


def _free(device: torch.device) -> float:
    """Bytes that could be allocated now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes("/proc/meminfo", "MemAvailable") * 1024


def measure(kind: str, tokens: int, device: torch.device) -> str:
    """`step` in a fresh process, as the cells of a table; the reason when it was not run."""
    needed = HELD_AT_ONCE * HEADS * tokens**2 * 4
    if kind == "naive" and needed > 0.85 * _free(device):
        return f"needs {needed / MEGABYTE:,.0f}, not run | —"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak, seconds = pool.apply(step, (kind, tokens, device))
    return f"{peak:,.0f} | {seconds:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    arguments = parser.parse_args()
    print("| tokens | attention MB | s | naive softmax MB | s |\n|---|---|---|---|---|")
    for tokens in arguments.tokens:
        cells = [measure(kind, tokens, arguments.device) for kind in ("attention", "naive")]
        print(f"| {tokens:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
