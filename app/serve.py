"""The app: the pages put together, and the server that shows them; it writes nothing and asks nothing of others."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from app.chooser import choose, first_choices
from app.laboratory import FIRST, MEMORY, Laboratory
from app.pages import bound, depth, experiments, reconstruct, tamper
from app.theme import STYLE, theme
from app.uploads import LIMIT
from pipeline.core.errors import DataError, PipelineError

HOST, PORT = "127.0.0.1", 7860
LOCAL_NAMES = ("127.0.0.1", "localhost")
TITLE = "Feature inversion: the laboratory"
BODY = 2 * LIMIT  # bytes of a request: a photograph as text, and what stands around it
PAGES = {  # name, as in the address → title
    "reconstruct": ("Reconstruct", reconstruct),
    "depth": ("Depth", depth),
    "tamper": ("Tamper", tamper),
    "bound": ("Upper bound", bound),
    "experiments": ("Experiments", experiments),
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Refuses what would be written to a file (Gradio's own uploads, forms) and what is too large to be kept."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == "/":
            scope = {**scope, "query_string": b""}  # Gradio looks for a page of its own there, `opened` for ours later
        headers = {name.lower(): value for name, value in scope["headers"]}
        if b"multipart" in headers.get(b"content-type", b"") or scope["path"].rstrip("/").endswith("/upload"):
            await _refuse(send, 403, b"files are not taken: send a photograph as text, data:image/jpeg;base64,...")
            return
        if scope["method"] == "POST" and int(headers.get(b"content-length", BODY + 1)) > BODY:
            await _refuse(send, 413, f"a request may have {BODY} bytes, and must say how many it has".encode())
            return
        await self.app(scope, receive, send)


async def _refuse(send: Send, status: int, sentence: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(sentence)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence})


def blocks(laboratory: Laboratory) -> gr.Blocks:
    """All pages."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.Markdown(f"# {TITLE}", elem_classes="title")
        welcome = gr.Markdown(visible=False, elem_id="welcome")
        chosen = choose(laboratory)
        chosen.tabs.render()
        with chosen.tabs:
            for name, (title, module) in PAGES.items():
                with gr.Tab(title, id=name) as tab:
                    module.build(laboratory, chosen)
                tab.select(lambda name=name: name, None, chosen.page, api_visibility="private")

        def opened(request: gr.Request) -> list[Any]:
            models, photos = first_choices(laboratory, request)
            page = request.query_params.get("page")
            if page not in PAGES:  # who has opened a tab meanwhile is not thrown back
                page = None
            nothing = not models.choices and not request.query_params.get("model")
            sentence = f"There is no model in `{laboratory.root.resolve()}` yet. This makes the first one: `{FIRST}`"
            kept = dict(zip(chosen.kept, chosen.restore(request.query_params), strict=True))
            kept |= {"page": page or gr.skip(), "model": models, "photo": photos}
            tabs = gr.Tabs(selected=page) if page else gr.skip()
            return [gr.Markdown(sentence, visible=nothing), tabs, *kept.values()]

        parts = [welcome, chosen.tabs, *chosen.kept.values()]
        app.load(opened, None, parts, show_progress="hidden", api_visibility="private")
    return app


def warm(laboratory: Laboratory) -> None:
    """Load the library and the first model while the first paint is on its way."""
    from app import results

    with suppress(PipelineError):  # whoever asks for that model is told
        results.loaded_first(laboratory)


def serve(
    root: Path,
    host: str = HOST,
    port: int = PORT,
    params: Path | None = None,
    overrides: Iterable[str] = (),
    device: str = "auto",
    memory_bytes: int = MEMORY,
    block: bool = True,
) -> tuple[gr.Blocks, str]:
    """Serve the checkout in `root` until interrupted, or with `block=False` until the Blocks are closed; the address.

    Only on this machine unless `host` is another of its addresses; from elsewhere, models are those below `root`.
    """
    local = host in (*LOCAL_NAMES, "::1")
    laboratory = Laboratory(root, params, overrides, device, memory_bytes, anywhere=local)
    app = blocks(laboratory)
    app.queue(default_concurrency_limit=8)
    try:
        address = _launched(app, host, port)
    except OSError as error:
        raise DataError(
            f"no server can listen at {host}:{port} ({error.args[-1]}); choose another --port, or with --host "
            "an address of this machine"
        ) from None
    threading.Thread(target=warm, args=(laboratory,), daemon=True).start()
    if block:
        for name in (signal.SIGINT, signal.SIGTERM):  # a shell's background job inherits them ignored
            signal.signal(name, signal.default_int_handler)  # so that what was fetched goes with the server
        print(f"the laboratory of {root.resolve()}: {address}", flush=True)
        app.block_thread()
    return app, address


def _launched(app: gr.Blocks, host: str, port: int) -> str:
    middleware = [Middleware(Guard)]
    if host in LOCAL_NAMES:  # a page of another name that resolves to this machine may not ask
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_NAMES]))
    _, address, _ = app.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=1,
        app_kwargs={"middleware": middleware},
        theme=theme(),
        css_paths=STYLE,
    )
    return str(address)
