"""The laboratory in a real browser, which may reach nothing else: every page, as a person uses it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import free_port, needs_chromium, started, visit
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from skimage import data
from small_checkout import EXPERIMENTS, small_checkout

from app.serve import serve

pytestmark = [pytest.mark.slow, needs_chromium]

PAGES = {"reconstruct": "Reconstruct", "depth": "Depth", "tamper": "Tamper", "bound": "Upper bound"}
PAGES |= {"experiments": "Experiments"}
SHOWN = {  # by each page when it has computed
    "depth": "#depth .layers img",
    "tamper": "#tampered figure",
    "bound": "#refine",
    "experiments": "#strips img",
    "reconstruct": "#results figure",
}
ROWS = "#experiments tbody tr"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    blocks, address = serve(small_checkout(), port=free_port(), block=False)
    yield address
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with visit(browser, address) as page:
        yield page


def open_page(page: Page, name: str) -> None:
    tab, menu = page.get_by_role("tab", name=PAGES[name], exact=True), page.locator(".overflow-menu > button")
    tab.or_(menu).filter(visible=True).first.wait_for()
    if not tab.is_visible():  # on a narrow screen the others are in a menu
        menu.click()
        tab = page.locator(".overflow-dropdown button", has_text=PAGES[name])
    tab.click()


def names(page: Page) -> list[str]:
    return [str(row.get_attribute("data-name")) for row in page.locator(ROWS).all()]


def test_experiments_sort_by_a_click_on_a_head(page: Page, browser: Browser, address: str) -> None:
    open_page(page, "experiments")
    expect(page.locator(ROWS)).to_have_count(1 + len(EXPERIMENTS))
    assert names(page)[0] == "workspace, HEAD"
    head = page.locator("#experiments thead").get_by_role("button", name="PSNR, dB")
    by_psnr = names(page)
    head.click()
    assert names(page) == by_psnr[::-1]
    head.click()
    assert names(page) == by_psnr
    page.locator("#experiments thead").get_by_role("button", name="experiment").click()
    assert names(page) == sorted(by_psnr)
    page.wait_for_url("**sort=experiment**")
    with visit(browser, address, page.url.removeprefix(address)) as again:
        expect(again.locator(ROWS)).to_have_count(len(by_psnr))
        assert names(again) == sorted(by_psnr)


def test_a_click_on_an_experiment_chooses_its_model_for_the_other_pages(page: Page) -> None:
    open_page(page, "experiments")
    page.locator(ROWS).filter(has_text="deeper").click()
    expect(page.locator("#models")).to_contain_text("deeper")
    page.wait_for_url("**model=deeper**")
    assert "model=workspace" not in page.url


def test_experiments_side_by_side(page: Page) -> None:
    open_page(page, "experiments")
    expect(page.locator("#strips thead th")).to_have_count(3)  # the best two, beside the original
    expect(page.locator("#differences")).to_contain_text("decoder")
    page.locator("#compared input").click()
    page.get_by_role("option", name="deeper").click()
    expect(page.locator("#strips thead th")).to_have_count(4)
    page.wait_for_url("**compare=deeper**")
    shown = page.locator("#strips img").last
    assert shown.evaluate("image => image.complete && image.naturalWidth === 192")  # 64 pixels, each three times


def test_the_layer_scrubber(page: Page) -> None:
    open_page(page, "depth")
    layers = page.locator("#depth .layers")
    expect(layers).to_have_count(2)  # trained, and random beside
    expect(layers.first.locator("img")).to_have_count(2)
    page.locator("#depth .scrubber input").press("ArrowRight")
    trained, random = page.locator("#depth .stage figure").nth(1), page.locator("#depth .stage figure").nth(2)
    deeper = layers.first.locator("button").nth(1)
    expect(trained.locator("figcaption")).to_contain_text(deeper.locator("small").inner_text())
    assert trained.locator("img").get_attribute("src") == deeper.locator("img").get_attribute("src")
    expect(random).to_contain_text("no model of this layer")
    page.wait_for_url("**layer=stage2**")
    layers.first.locator("button").first.click()
    expect(random.locator("img")).to_be_visible()
    expect(page.locator("#depth_curve canvas, #depth_curve svg").first).to_be_visible()


def test_an_address_brings_the_state_of_its_page_back(page: Page, browser: Browser, address: str) -> None:
    open_page(page, "experiments")
    page.locator(ROWS).filter(has_text="shallow-random").click()
    page.wait_for_url("**model=shallow-random**")
    with visit(browser, address, page.url.removeprefix(address)) as again:
        expect(again.get_by_role("tab", name="Experiments")).to_have_attribute("aria-selected", "true")
        expect(again.locator("#models")).to_contain_text("shallow-random")


def test_uploads_by_names_that_are_text(page: Page, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>.png"
    for name, pixels in ((hostile, data.chelsea()), ("tasse à café.png", data.coffee())):
        Image.fromarray(pixels).save(tmp_path / name)
    page.locator("#drop input[type=file]").set_input_files(sorted(tmp_path.iterdir()))
    expect(page.locator("#photos")).to_contain_text(hostile)
    expect(page.locator("#photos")).to_contain_text("tasse à café.png")
    open_page(page, "depth")
    expect(page.locator("#depth .stage figcaption").first).to_contain_text(hostile)
    assert page.locator("img[src=x]").count() == 0


def test_a_photograph_from_the_camera(page: Page) -> None:
    page.locator("#drop .camera").click()
    page.wait_for_function("document.querySelector('#drop video').videoWidth > 0")
    page.locator("#drop .still").click()
    expect(page.locator("#photos")).to_contain_text("camera")
    expect(page.locator("#results h4")).to_contain_text("camera")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_no_page_scrolls_sideways(browser: Browser, address: str, width: int, scheme: str) -> None:
    with visit(browser, address, "", width, scheme) as page:
        expect(page.locator("#results figure")).to_have_count(4)
        for name, shown in SHOWN.items():
            open_page(page, name)
            expect(page.locator(shown).first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == width, name
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(map(int, background.strip("rgba()").split(",")[:3])) / 765
        assert lightness < 0.2 if scheme == "dark" else lightness > 0.8


def test_reconstruct_shows_the_default_with_a_slider(page: Page) -> None:
    expect(page.locator("#results figure")).to_have_count(4)
    expect(page.locator("#results")).to_contain_text("bicubic")
    clipped = page.locator("#slider img.fixed")
    expect(clipped).to_have_attribute("style", re.compile(r"inset\(0px 0px 0px 50%\)"))
    handle = page.locator("#slider [data-testid=slider]")
    handle.hover()  # waits until it stands still
    box = handle.bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    expect(clipped).not_to_have_attribute("style", re.compile(r"inset\(0px 0px 0px 50%\)"))
    link = page.get_by_role("link", name="Numbers as JSON")
    with page.expect_download() as download:
        link.click()
    assert "psnr" in download.value.path().read_text()


def test_the_camera_live_with_its_rate(page: Page) -> None:
    expect(page.locator("#results figure")).to_have_count(4)
    page.locator("#live .start").click()
    expect(page.locator("#live .rate")).to_contain_text("frames")
    assert str(page.locator("#live .answer").get_attribute("src")).startswith("data:image/")
    page.locator("#live .stop").click()
    expect(page.locator("#live .start")).to_be_visible()


def test_tampering_changes_the_numbers_at_once(page: Page) -> None:
    open_page(page, "tamper")
    numbers = page.locator("#tampered .numbers")
    expect(numbers).to_contain_text("PSNR")
    before = numbers.inner_text()
    page.locator("#bits input[type=number]").fill("1")
    page.locator("#bits input[type=number]").press("Enter")
    expect(numbers).not_to_have_text(before)
    page.wait_for_url("**bits=1**")


def test_the_upper_bound_moves_until_it_is_stopped(page: Page) -> None:
    open_page(page, "bound")
    page.locator("#budget input[type=number]").fill("4000")
    page.locator("#refine").click()
    done = page.locator("#bound_said .numbers b").first
    page.wait_for_function("Number(document.querySelector('#bound_said .numbers b')?.textContent) >= 2")
    page.locator("#stop").click(force=True)  # as a hand does, which waits for no still frame
    page.wait_for_timeout(1000)
    stopped = int(done.inner_text())
    page.wait_for_timeout(1000)
    assert int(done.inner_text()) == stopped < 4000


def test_an_empty_checkout_says_what_makes_the_first_model(browser: Browser, tmp_path: Path) -> None:
    blocks, address = serve(tmp_path, port=free_port(), block=False)
    try:
        with visit(browser, address) as page:
            expect(page.locator("#welcome")).to_contain_text("make repro")
            open_page(page, "experiments")
            expect(page.locator("#experiments")).to_contain_text("nothing to compare yet")
            open_page(page, "depth")
            expect(page.locator("#depth")).to_contain_text("make repro")
    finally:
        blocks.close(verbose=False)
