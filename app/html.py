"""HTML of the pages: every text in it is escaped, every picture inside it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

if TYPE_CHECKING:
    from pipeline.evaluation.pictures import Picture  # which loads torch

TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=StrictUndefined
)


def breakable(text: str) -> Markup:
    """A long name that may go on in another line after a mark."""
    return Markup(re.sub(r"([-_./@,])", r"\1<wbr>", str(escape(text))))


def code(text: str) -> Markup:
    """A sentence with what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


_ENVIRONMENT.filters |= {"breakable": breakable, "code": code}


def render(template: str, **values: Any) -> str:
    """One of app/templates, filled in."""
    return _ENVIRONMENT.get_template(template).render(**values)


def data_uri(picture: Picture) -> str:
    """The picture as a PNG inside its own address: exact pixels, and no file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
