"""Pictures of every page of the laboratory, wide and narrow, light and dark: python -m benchmarks.app_screens

Starts `python -m stages app` on this checkout, and needs Playwright and Chromium (CHROMIUM=/usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PAGES = {  # as in an address, and what each shows when it has computed
    "reconstruct": "#results figure img",
    "depth": "#depth .layers img",
    "tamper": "#tampered figure img",
    "bound": "#refine",
    "experiments": "#experiments table",
}
WIDTHS, HEIGHT = (1280, 390), 900  # pixels
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SETTLED = "!document.querySelector('[data-testid=status-tracker]:not(.hide)')"  # no part is being computed
START, CALM = 120.0, 2.0  # seconds: at most until a server or a page answers; until what it computed is drawn, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="The checkout whose models are shown.")
    parser.add_argument("--out", type=Path, default=Path(".work/app_screens"), help="A folder for the pictures.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with served(options.root) as address, sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        for width in WIDTHS:
            for scheme in SCHEMES:
                for name, shown in PAGES.items():
                    place = options.out / f"{name}_{width}_{scheme}.png"
                    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
                    page.goto(f"{address}?page={name}")
                    page.wait_for_selector(shown, timeout=1000 * START)
                    page.wait_for_timeout(1000 * CALM)
                    page.wait_for_function(SETTLED, timeout=1000 * START)
                    page.screenshot(path=place, full_page=True)
                    print(f"{place}: {page.evaluate('document.documentElement.scrollWidth')} pixels wide")
                    page.close()
        browser.close()


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of the laboratory of `root`, on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "stages", "app", "--root", str(root), "--port", str(port)]
    with subprocess.Popen(command) as server:
        try:
            deadline = time.monotonic() + START
            while not _answers(address):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"error: {' '.join(command)} does not answer at {address}")
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
