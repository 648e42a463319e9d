"""Reconstruct: photographs through models and back, beside the originals, with scores and floors."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chooser import Chosen
from app.html import TEMPLATES, render
from app.laboratory import WORKSPACE, Laboratory
from app.show import comparison, endpoint, first
from pipeline.core.errors import PipelineError

NAME = "reconstruct"


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """Every chosen photograph through every chosen model; a slider over the first; and the camera, live."""
    with gr.Row():
        slider = comparison("Original | reconstruction, of the first", elem_id="slider", max_height=448)
        gr.HTML(
            html_template=(TEMPLATES / "live.html").read_text(),
            js_on_load=(TEMPLATES / "live.js").read_text(),
            server_functions=[_live(laboratory)],
            apply_default_css=False,
            elem_id="live",
        )
    results = gr.HTML(
        js_on_load=(TEMPLATES / "result.js").read_text(), apply_default_css=False, elem_id="results", min_height=320
    )

    def show(page: str, photos: list[str], models: list[str]) -> list[Any]:
        from app.results import page as result_page
        from app.results import pair
        from app.results import reconstruct as reconstruct_one

        if page != NAME or not photos or not models:
            return [gr.skip()] * 2
        parts: list[str] = []
        compared = None
        for photo in photos:
            for model in models:
                try:
                    result = reconstruct_one(laboratory, photo, model)
                except PipelineError as error:
                    parts.append(render("problem.html", problem=str(error)))
                    continue
                compared = compared or pair(result)
                parts.append(result_page(result))
        return ["\n".join(parts), compared]

    def reconstruct(photograph: str, model: str = WORKSPACE) -> dict[str, Any]:
        """A photograph through a model and back: scores, floors, and the reconstruction as a PNG in a data URI.

        `photograph` is the name of a test photograph, or `data:image/jpeg;base64,…`.
        """
        from app.results import pair
        from app.results import reconstruct as reconstruct_one

        result = reconstruct_one(laboratory, photograph, model)
        return {**result.numbers(), "reconstruction": pair(result)[1]}

    def models() -> list[str]:
        """Names of the models of this checkout."""
        return laboratory.models()

    def photographs() -> list[str]:
        """Names of the test photographs in the cache."""
        return laboratory.photographs()

    gr.on(
        [chosen.page.change, chosen.photos.change, chosen.models.change],
        show,
        [chosen.page, chosen.photos, chosen.models],
        [results, slider],
        trigger_mode="always_last",
        api_visibility="private",
    )
    for each in (reconstruct, models, photographs):
        endpoint(each)


def _live(laboratory: Laboratory) -> Any:
    def frame(sent: dict[str, str]) -> dict[str, str]:
        """`photo`, a data URI, and `model` → `picture`, a data URI, and `psnr`; or `problem`, a sentence."""
        from app.results import live

        try:
            return live(laboratory, str(sent.get("photo")), sent.get("model") or first(laboratory.models()))
        except PipelineError as error:
            return {"problem": str(error)}

    return frame
