"""`python -m benchmarks.app [ROOT]`: what the laboratory takes to answer, warm, on two cores.

From the request over HTTP to the whole answer: a photograph of 4000×3000 pixels through `/reconstruct`, with scores,
floors and pictures; and the page's own HTML of it. Live frames of 640×480 go straight to what the camera calls.
"""

from __future__ import annotations

import base64
import io
import os
import socket
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from gradio_client import Client
from PIL import Image

from app import results
from app.laboratory import WORKSPACE, Laboratory
from app.serve import serve
from benchmarks.bars import seconds

CORES, ROUNDS, FRAMES = 2, 5, 20
LARGE, CAMERA = (4000, 3000), (640, 480)  # pixels
BAR = 2.0  # seconds


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    laboratory = Laboratory(root)
    large, frame = photograph(LARGE), photograph(CAMERA)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served, address = serve(root, port=port, block=False)
    client = Client(address, verbose=False)

    def answered() -> object:
        return client.predict(large, WORKSPACE, api_name="/reconstruct")

    def shown() -> object:
        return results.page(results.reconstruct(laboratory, large, WORKSPACE))

    first = seconds(answered)
    over_http = [seconds(answered) for _ in range(ROUNDS)]
    shown()
    pages = [seconds(shown) for _ in range(ROUNDS)]
    results.live(laboratory, frame, WORKSPACE)
    live = seconds(lambda: [results.live(laboratory, frame, WORKSPACE) for _ in range(FRAMES)])
    served.close(verbose=False)
    sources = ", ".join(laboratory.description(WORKSPACE)["blueprint"]["sources"])
    print(f"{sources}, {CORES} cores, {LARGE[0]}×{LARGE[1]} pixels in {len(large) * 3 // 4 / 1e6:.1f} MB")
    print(f"over HTTP, cold:  {first:.2f} s")
    print(f"over HTTP, warm:  {median(over_http):.2f} s (bar: at most {BAR:g} s, {verdict(median(over_http))})")
    print(f"the page, warm:   {median(pages):.2f} s (bar: at most {BAR:g} s, {verdict(median(pages))})")
    print(f"live, {CAMERA[0]}×{CAMERA[1]}:   {FRAMES / live:.1f} frames/s")


def verdict(found: float) -> str:
    return "kept" if found <= BAR else "broken"


def photograph(size: tuple[int, int]) -> str:
    """Smooth colours with some texture, a JPEG as text."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = coarse.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth, np.int16) + random.integers(-12, 13, (size[1], size[0], 1), dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    main()
