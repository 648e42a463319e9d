"""Parts of pages whose pictures are in the page itself: Gradio's own write every picture into a file."""

from __future__ import annotations

import html
from typing import Any, cast

import gradio as gr

from pipeline.core.errors import PipelineError


def comparison(label: str, **options: Any) -> gr.ImageSlider:
    """An image slider that takes two data URIs, and leaves them as they are.

    Not a subclass: Gradio would write a stub file beside its source.
    """
    slider = gr.ImageSlider(label=label, interactive=False, buttons=["fullscreen"], **options)
    slider.postprocess = _inside  # type: ignore[method-assign, assignment]
    return slider


def refused(error: PipelineError) -> gr.Error:
    """What a client gets to read; as text, since pages show it as HTML."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False)


def first(names: Any) -> str:
    """The first of what is chosen, or `''`."""
    return cast(str, names[0]) if names else ""


def _inside(value: tuple[str, str] | None) -> Any:
    return None if value is None else [{"path": each, "url": each} for each in value]
