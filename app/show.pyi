"""Parts of pages whose pictures are in the page itself: Gradio's own write every picture into a file."""

from __future__ import annotations

import html
from typing import Any, cast

import gradio as gr

from pipeline.core.errors import PipelineError

class Comparison(gr.ImageSlider):
    """An image slider whose two pictures are data URIs."""

    is_template = True  # in the browser it is an ImageSlider

    def postprocess(self, value: tuple[str, str] | None) -> Any:  # type: ignore[override]
        return None if value is None else [{"path": each, "url": each} for each in value]
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

def refused(error: PipelineError) -> gr.Error:
    """What a client gets to read; as text, since pages show it as HTML."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False)

def first(names: Any) -> str:
    """The first of what is chosen, or `''`."""
    return cast(str, names[0]) if names else ""
