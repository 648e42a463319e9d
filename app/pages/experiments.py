"""Experiments: all that was scored in this checkout; a click on one chooses its model for the other pages."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from app.chooser import Chosen
from app.html import TEMPLATES, render
from app.laboratory import Laboratory
from app.show import endpoint
from pipeline.core.errors import DataError

NAME = "experiments"
MOST = 4  # experiments side by side
CURVES = {"validation_psnr": "validation PSNR, dB", "validation_total": "validation loss"}


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """The table, which is read when the page is first opened, and under it two to four experiments side by side."""
    listed = gr.HTML(
        js_on_load=(TEMPLATES / "experiments.js").read_text(), apply_default_css=False, elem_id="experiments"
    )
    with gr.Row(elem_classes="chooser"):
        compared = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=MOST,
            allow_custom_value=True,
            label="Side by side",
            info="two to four experiments: training curves, what differs, the same test photographs",
            elem_id="compared",
            scale=6,
        )
        again = gr.Button("Read again", scale=1, min_width=120)
    chosen.keep("compare", compared)
    with gr.Row():
        plots = [
            gr.LinePlot(x="epoch", y=column, y_title=title, color="experiment", height=280, elem_id=column)
            for column, title in CURVES.items()
        ]
    differences = gr.HTML(apply_default_css=False, elem_id="differences")
    strips = gr.HTML(apply_default_css=False, elem_id="strips")
    was_read = gr.State(False)

    def read(names: list[str], again: bool = True) -> list[Any]:
        from app.scores import FEWEST, scored, table

        try:
            found, left_out = scored(laboratory, again)
        except DataError as error:
            return [render("notes.html", notes=str(error).splitlines()), gr.Dropdown(choices=[]), True]
        known = [each.name for each in sorted(found, key=lambda each: -each.metrics["psnr"]["mean"])]
        kept = [name for name in names if name in known] or known[:FEWEST]
        shown = table(found) + render("notes.html", notes=left_out)
        return [shown, gr.Dropdown(choices=known, value=kept), True]

    def opened(page: str, before: bool, names: list[str]) -> list[Any]:
        return [gr.skip()] * 3 if before or page != NAME else read(names, again=False)

    def compare(names: list[str]) -> list[Any]:
        from app import scores

        try:
            found = scores.named(laboratory, names)
        except DataError as error:
            return [None, None, render("notes.html", notes=[str(error)]), ""]
        curves = scores.curves(found)
        return [curves, curves, scores.differences(found), scores.strips(found)]

    def choose(event: gr.SelectData) -> Any:
        from app.scores import model_of

        gr.Info(f"{html.escape(event.value)}: its model is chosen on all pages", duration=3)
        return gr.Dropdown(value=[model_of(event.value)])

    def experiments() -> list[dict[str, Any]]:
        """The leaderboard of everything that was scored in this checkout."""
        from app.scores import records

        return records(laboratory)

    outputs = [listed, compared, was_read]
    only: dict[str, Any] = {"show_progress_on": listed, "api_visibility": "private"}  # what is chosen stays in reach
    chosen.page.change(opened, [chosen.page, was_read, compared], outputs, **only)
    again.click(read, compared, outputs, **only)
    compared.change(compare, compared, [*plots, differences, strips], api_visibility="private")
    listed.select(choose, None, chosen.models, api_visibility="private")
    endpoint(experiments)
