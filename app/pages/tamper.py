"""Tamper: the features changed before they are decoded, and the image that comes of it at once."""

from __future__ import annotations

from typing import Annotated, Any

import gradio as gr
from pydantic import Field

from app.chooser import Chosen
from app.html import TEMPLATES, render
from app.laboratory import WORKSPACE, Laboratory
from app.show import comparison, endpoint, first
from pipeline.core.errors import PipelineError

NAME = "tamper"
MOST_CHANNELS = 2048


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """The first chosen photograph through the first chosen model, with a control for each change."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            kept = "those that vary most; 0: all"
            top = gr.Slider(0, MOST_CHANNELS, 0, step=1, label="Channels kept", info=kept, elem_id="top")
            alone = gr.Number(-1, label="One channel alone", info="its number; -1: all", precision=0, minimum=-1)
            noise = gr.Slider(0, 4, 0, step=0.05, label="Noise", info="in standard deviations of each channel")
            bits = gr.Slider(0, 8, 0, step=1, label="Bits of a value", info="8: int8; 0: as stored", elem_id="bits")
            edges = [
                gr.Slider(0, 1, 0, step=0.05, label=f"Blank region: {side}", min_width=120)
                for side in ("top", "left", "bottom", "right")
            ]
        with gr.Column(scale=3, min_width=280):
            slider = comparison("Original | from changed features", elem_id="changed")
            numbers = gr.HTML(
                js_on_load=(TEMPLATES / "result.js").read_text(), apply_default_css=False, elem_id="tampered"
            )
    controls: list[Any] = [top, alone, noise, bits, *edges]
    for name, part in zip(("top", "alone", "noise", "bits", "up", "left", "down", "right"), controls, strict=True):
        chosen.keep(name, part)

    def show(page: str, photos: list[str], models: list[str], *values: float) -> list[Any]:
        from app.results import tampered_page

        if page != NAME or not photos or not models:
            return [gr.skip()] * 3
        try:
            found = _tamper(laboratory, first(photos), first(models), *values)
        except PipelineError as error:
            return [render("problem.html", problem=str(error)), None, gr.skip()]
        html, pair = tampered_page(found)
        return [html, pair, gr.Slider(maximum=max(found["channels"]))]

    def tamper(
        photograph: str,
        model: str = WORKSPACE,
        top: int = 0,
        alone: int = -1,
        noise: float = 0.0,
        bits: int = 0,
        blank: Annotated[list[float], Field(min_length=4, max_length=4)] = [0.0, 0.0, 0.0, 0.0],  # noqa: B006 — Gradio reads the default, nobody changes it
    ) -> dict[str, Any]:
        """A photograph through changed features: PSNR, SSIM, bits per pixel, and the image as a PNG in a data URI.

        `top` channels are kept (0: all), or the one that is `alone` (-1: all); `noise` is in standard deviations;
        `bits` of a value are kept (0: as stored); `blank` is top, left, bottom, right, in shares of the grid.
        """
        from app.results import tampered_page

        found = _tamper(laboratory, photograph, model, top, alone, noise, bits, *blank)
        plain = {name: value for name, value in found.items() if name not in ("original", "reconstruction")}
        return {**plain, "reconstruction": tampered_page(found)[1][1]}

    gr.on(
        [chosen.page.change, chosen.photos.change, chosen.models.change, *(part.change for part in controls)],
        show,
        [chosen.page, chosen.photos, chosen.models, *controls],
        [numbers, slider, top],
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    endpoint(tamper)


def _tamper(laboratory: Laboratory, photo: str, model: str, *values: float) -> dict[str, Any]:
    from app.results import tamper
    from pipeline.experiments.tampering import Tampering

    top, alone, noise, bits, *blank = values
    up, left, down, right = blank
    change = Tampering(int(top or 0), int(-1 if alone is None else alone), noise, int(bits), (up, left, down, right))
    return tamper(laboratory, photo, model, change)
