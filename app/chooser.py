"""What all pages share: the photographs and models that are chosen, and the address that remembers a page's state."""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from app.laboratory import Laboratory
from app.uploads import LIMIT
from pipeline.core.errors import PipelineError

TEMPLATES = Path(__file__).parent / "templates"
MOST = 6  # photographs, or models, at a time
KEEP = """(value) => {
  const address = new URL(window.location);
  address.searchParams.delete(NAME);
  for (const each of [value].flat())
    if (each !== null && each !== "" && !String(each).startsWith("upload:")) address.searchParams.append(NAME, each);
  window.history.replaceState(null, "", address);
}"""


@dataclass
class Chosen:
    """The parts that pages read (`photos`, `models`, `page`) and, by a click, may fill.

    photos: keys for `Laboratory.photograph`. models: names for `Laboratory.loaded`. page: the name of the open page.
    """

    photos: gr.Dropdown
    models: gr.Dropdown
    page: gr.Textbox
    tabs: gr.Tabs
    sent: gr.State  # (name, key) of what this session has uploaded
    kept: dict[str, Any] = field(default_factory=dict)

    def keep(self, name: str, part: Any) -> None:
        """Keep the value of `part` in the address, as the parameter `name`."""
        self.kept[name] = part
        part.change(None, part, None, js=KEEP.replace("NAME", json.dumps(name)), api_visibility="private")

    def restore(self, query: Any) -> list[Any]:
        """The values of `kept` that an address names; what does not fit its part is left as it is."""
        return [_read(part, query.getlist(name)) for name, part in self.kept.items()]


def choose(laboratory: Laboratory) -> Chosen:
    """The bar above the pages."""
    with gr.Row(elem_classes="chooser"):
        models = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=MOST,
            allow_custom_value=True,
            label="Models",
            info="workspace, an experiment, or the path of a models folder",
            elem_id="models",
            scale=2,
        )
        photos = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=MOST,
            allow_custom_value=True,
            label="Photographs",
            info="test photographs of the cache, and your own",
            elem_id="photos",
            scale=2,
        )
        drop = gr.HTML(
            html_template=(TEMPLATES / "drop.html").read_text(),
            js_on_load=(TEMPLATES / "drop.js").read_text(),
            server_functions=[_receiver(laboratory)],
            limit=LIMIT,
            elem_id="drop",
            scale=2,
        )
    page = gr.Textbox("reconstruct", visible="hidden", elem_id="page")
    sent = gr.State([])
    # the tabs are opened by the caller, who knows the pages
    chosen = Chosen(photos, models, page, gr.Tabs(elem_id="pages", render=False), sent)
    chosen.keep("page", page)
    chosen.keep("model", models)
    chosen.keep("photo", photos)

    def added(event: gr.EventData, before: list[tuple[str, str]]) -> tuple[Any, list[tuple[str, str]]]:
        new = [(each["name"], each["key"]) for each in event.new]
        choices = [*before, *new]
        if len(new) > MOST:
            gr.Info(f"{MOST} of these {len(new)} photographs are shown; the others are in the list")
        listed: list[Any] = [*laboratory.photographs(), *choices]
        return gr.Dropdown(choices=listed, value=[key for _, key in new][:MOST]), choices

    drop.upload(added, sent, [photos, sent], api_visibility="private")
    return chosen


def first_choices(laboratory: Laboratory, request: gr.Request) -> tuple[Any, Any]:
    """The choices of models and photographs, with those of the address chosen, or else the first of each."""
    models, photographs = laboratory.models(), laboratory.photographs()
    query = request.query_params
    named = query.getlist("model")[:MOST] or models[:1]
    shown = query.getlist("photo")[:MOST] or photographs[:1]
    return gr.Dropdown(choices=models, value=named), gr.Dropdown(choices=photographs, value=shown)


def _receiver(laboratory: Laboratory) -> Any:
    def receive(photograph: dict[str, str]) -> dict[str, str]:
        """`name` and `content`, base64 → `name` and `key`; or `problem`, a sentence."""
        try:
            name, content = photograph["name"], base64.b64decode(photograph["content"], validate=True)
            return {"name": name, "key": laboratory.uploads.add(name, content)}
        except (binascii.Error, KeyError, TypeError):
            return {"problem": "what was sent is no photograph; choose its file again"}
        except PipelineError as error:
            return {"problem": str(error)}

    return receive


def _read(part: Any, values: list[str]) -> Any:
    if not values:
        return gr.skip()
    if getattr(part, "multiselect", False):
        return values
    if isinstance(part, gr.Slider | gr.Number):
        try:
            number = float(values[0])
        except ValueError:
            return gr.skip()
        low, high = part.minimum, part.maximum
        fits = math.isfinite(number) and (low is None or number >= low) and (high is None or number <= high)
        return number if fits else gr.skip()
    if isinstance(part, gr.Checkbox):
        return values[0] == "true"
    choices = [value for _, value in getattr(part, "choices", None) or []]
    return values[0] if values[0] in choices or not choices else gr.skip()
