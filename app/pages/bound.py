"""Upper bound: the image refined through the known network, step by step; what the layer holds at least."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import gradio as gr
from pydantic import Field

from app.chooser import Chosen
from app.html import render
from app.laboratory import WORKSPACE, Laboratory
from app.show import comparison, endpoint, first, paced
from pipeline.core.errors import PipelineError

NAME = "bound"
BUDGET, MOST = 24, 4000  # evaluations of the network
PAUSE = 1.0  # seconds between two pictures: a browser that draws without a pause hears no click on Stop
REFINERS = ("map", "lbfgs", "block_inverse")


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """The first chosen photograph and model: a start, a stop, the picture and its curve, moving."""
    with gr.Row():
        refiner = gr.Dropdown(list(REFINERS), value=REFINERS[0], label="Refiner", elem_id="refiner")
        budget = gr.Slider(1, MOST, BUDGET, step=1, label="Evaluations of the network", elem_id="budget")
        start = gr.Button("Refine", variant="primary", elem_id="refine")
        stop = gr.Button("Stop", variant="stop", elem_id="stop")
    said = gr.HTML(apply_default_css=False, elem_id="bound_said")
    with gr.Row():
        slider = comparison("Original | refined", elem_id="refined")
        with gr.Column():
            psnr = gr.LinePlot(x="evaluation", y="psnr", y_title="PSNR, dB", height=220, elem_id="bound_psnr")
            error = gr.LinePlot(
                x="evaluation", y="feature_error", y_title="error of the features, relative", height=220
            )
    chosen.keep("refiner", refiner)
    chosen.keep("budget", budget)

    def run(photos: list[str], models: list[str], name: str, evaluations: float) -> Iterator[list[Any]]:
        from app.results import bound_page, refine

        if not photos or not models:
            yield [render("problem.html", problem="choose a photograph and a model first"), None, None, None]
            return
        try:
            for step in paced(refine(laboratory, first(photos), first(models), name, int(evaluations)), PAUSE):
                html, pair = bound_page(step)
                yield [html, pair, step.curve, step.curve.dropna()]
        except PipelineError as problem:
            yield [render("problem.html", problem=str(problem)), gr.skip(), gr.skip(), gr.skip()]

    def bound(
        photograph: str,
        model: str = WORKSPACE,
        refiner: str = REFINERS[0],
        evaluations: Annotated[int, Field(ge=1, le=MOST)] = BUDGET,
    ) -> Iterator[dict[str, Any]]:
        """A photograph's image refined through the known network, an answer for each evaluation; cancel to stop.

        `evaluation`, `psnr` and `feature_error` so far, and the image as a PNG in a data URI.
        """
        from app.results import bound_page, refine

        for step in refine(laboratory, photograph, model, refiner, evaluations):
            curve = step.curve.astype(object).where(step.curve.notna(), None)
            yield {**curve.to_dict("list"), "reconstruction": bound_page(step)[1][1]}

    running = start.click(
        run,
        [chosen.photos, chosen.models, refiner, budget],
        [said, slider, psnr, error],
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(None, None, None, cancels=[running], api_visibility="private")
    endpoint(bound)
