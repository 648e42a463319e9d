"""A real browser on the laboratory: what a page asks of any other address is refused, and fails the test."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
CAMERA = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # moving, and unasked
ALONE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",)  # it may reach nothing else
OF_ROOT = ("--no-sandbox",)  # Chromium refuses its sandbox to root
SECONDS = 20.0  # what a page may take on a loaded machine

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.is_file(),
    reason=f"{CHROMIUM} is missing; apt install chromium, or name yours: CHROMIUM=/path/to/chromium",
)


@contextmanager
def started() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*CAMERA, *ALONE, *(OF_ROOT if os.geteuid() == 0 else ())]
        )
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, address: str, place: str = "", width: int = 1280, scheme: str = "light") -> Iterator[Page]:
    """A page of its own at `address` + `place`: it fails by an error in its console, and by what it asks elsewhere."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        permissions=["camera"],
    )
    context.set_default_timeout(1000 * SECONDS)
    refused: list[str] = []
    errors: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.abort()

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    context.route(lambda url: not url.startswith((address, "data:", "blob:")), refuse)
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address + place)
    yield page
    context.close()
    assert not refused
    assert not errors


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
