"""Parts of pages whose pictures are in the page itself: Gradio's own write every picture into a file."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import gradio as gr
from gradio.component_meta import ComponentMeta

from pipeline.core.errors import PipelineError

Step = TypeVar("Step")


class _Unwritten(ComponentMeta):
    """Makes a component's class as its base does, without writing a stub file beside the source."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        return super(ComponentMeta, cls).__new__(cls, name, bases, attributes)


class Comparison(gr.ImageSlider, metaclass=_Unwritten):
    """An image slider that takes two data URIs, and leaves them as they are."""

    is_template = True  # in the browser it is an ImageSlider

    def postprocess(self, value: tuple[str, str] | None) -> Any:  # type: ignore[override]
        return None if value is None else [{"path": each, "url": each} for each in value]


def comparison(label: str, **options: Any) -> Comparison:
    return Comparison(label=label, interactive=False, buttons=["fullscreen"], **options)


def paced(steps: Iterator[Step], pause: float) -> Iterator[Step]:
    """The first of `steps`, the last, and in between those that come `pause` seconds after the one before."""
    shown = float("-inf")
    step: Step | None = None
    late = False
    for step in steps:
        late = time.monotonic() - shown < pause
        if not late:
            yield step
            shown = time.monotonic()
    if late and step is not None:
        yield step


def refused(error: PipelineError) -> gr.Error:
    """What a client gets to read; as text, since pages show it as HTML."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False)


def first(names: Any) -> str:
    """The first of what is chosen, or `''`."""
    return cast(str, names[0]) if names else ""
