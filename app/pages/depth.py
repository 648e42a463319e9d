"""Depth: one photograph through every layer that has a model, from shallow to deep, trained beside random weights."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chooser import Chosen
from app.html import TEMPLATES, render
from app.laboratory import FIRST, Laboratory
from app.show import endpoint
from pipeline.core.errors import PipelineError

NAME = "depth"
LAYER, PSNR, IMAGE = "layer", "PSNR, dB", "image"  # columns of the curve


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """The first of the photographs that are chosen, through the layers of one network: a scrubber, rows, a curve."""
    network = gr.Dropdown([], allow_custom_value=True, label="Network", elem_id="network")
    chosen.keep("network", network)
    layer = gr.Textbox(visible="hidden", elem_id="layer")
    chosen.keep("layer", layer)
    scrubber = gr.HTML(
        js_on_load=(TEMPLATES / "depth.js").read_text(), apply_default_css=False, elem_id="depth", min_height=320
    )
    plot = gr.LinePlot(x=LAYER, y=PSNR, color=IMAGE, height=300, elem_id="depth_curve")

    def opened(page: str, known: str | None, photos: list[str], layer: str) -> list[Any]:
        """The networks that have models, and the photograph through the layers of the one that has most."""
        from app.layers import all_series

        if page != NAME:
            return [gr.skip()] * 3
        try:
            series, notes = all_series(laboratory)
        except PipelineError as error:
            series, notes = [], [str(error)]
        networks = list(dict.fromkeys(each.network for each in series))
        if not networks:
            notes = [f"No model is here yet; this makes the first one: {FIRST}"] if not laboratory.models() else notes
            return [gr.Dropdown(choices=[]), render("notes.html", notes=notes), None]
        wanted = known if known in networks else networks[0]
        return [gr.Dropdown(choices=networks, value=wanted), *show(page, wanted, photos, layer)]

    def show(page: str, wanted: str | None, photos: list[str], layer: str) -> list[Any]:
        from app import layers

        if page != NAME or not wanted or not photos:
            return [gr.skip()] * 2
        try:
            found = layers.depth(laboratory, photos[0], wanted)
        except PipelineError as error:
            return [render("notes.html", notes=[str(error)]), None]
        return [layers.page(found, layer), gr.LinePlot(layers.curve(found), sort=list(found.layers))]

    def choose(event: gr.SelectData) -> str:
        return str(event.value)

    def depth(photograph: str, network: str) -> list[dict[str, Any]]:
        """A photograph through every layer of a network that has a model, shallow to deep."""
        from app import layers

        return layers.records(layers.depth(laboratory, photograph, network))

    inputs = [chosen.page, network, chosen.photos, layer]
    outputs = [network, scrubber, plot]
    chosen.page.change(opened, inputs, outputs, show_progress_on=[scrubber, plot], api_visibility="private")
    gr.on([network.input, chosen.photos.change], show, inputs, [scrubber, plot], api_visibility="private")
    scrubber.select(choose, None, layer, api_visibility="private")
    endpoint(depth)
