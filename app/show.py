"""Parts of pages whose pictures are in the page itself: Gradio's own write every picture into a file."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction, signature
from typing import Any, TypeVar, cast

import gradio as gr
from gradio.component_meta import ComponentMeta
from pydantic import ValidationError, validate_call

from app.uploads import shown
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


def endpoint(function: Callable[..., Any]) -> None:
    """Offer `function` over HTTP by its name; what is wrong with its arguments, or with what they name, is a sentence.

    Arguments are checked by their annotations. A generator answers with each thing that it yields.
    """
    checked, declared = validate_call(function), signature(function)

    @wraps(function)
    def answer(*args: Any, **options: Any) -> Any:
        with _told():
            return checked(**declared.bind(*args, **options).arguments)

    @wraps(function)
    def answers(*args: Any, **options: Any) -> Iterator[Any]:
        with _told():
            yield from checked(**declared.bind(*args, **options).arguments)

    gr.api(answers if isgeneratorfunction(function) else answer, api_name=function.__name__)


@contextmanager
def _told() -> Iterator[None]:
    """What a client gets to read; as text, since pages show it as HTML."""
    try:
        yield
    except ValidationError as error:
        wrong = [(".".join(map(str, each["loc"])), shown(repr(each["input"])), each["msg"]) for each in error.errors()]
        sentence = "; ".join(f"{name} = {value}: {rule}" for name, value, rule in wrong)
    except PipelineError as error:
        sentence = str(error)
    else:
        return
    raise gr.Error(html.escape(sentence, quote=False), print_exception=False)


def first(names: Any) -> str:
    """The first of what is chosen, or `''`."""
    return cast(str, names[0]) if names else ""
