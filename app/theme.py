"""How the laboratory looks: one theme for all pages, light and dark, with fonts that Gradio brings itself."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.fonts import Font, LocalFont

STYLE = Path(__file__).parent / "style.css"
WEIGHTS = (400, 700)  # the others that Gradio brings of these fonts lack most letters


def theme() -> gr.themes.Base:
    fonts: list[Font | str] = [LocalFont("IBM Plex Sans", WEIGHTS), "system-ui", "sans-serif"]
    mono: list[Font | str] = [LocalFont("IBM Plex Mono", WEIGHTS), "ui-monospace", "monospace"]
    return gr.themes.Base(
        primary_hue="blue",
        secondary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        spacing_size="sm",
        font=fonts,
        font_mono=mono,
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_shadow="none",
        input_border_width="1px",
        input_background_fill="*background_fill_primary",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )
