"""The server: the same functions over HTTP, nothing written, nothing asked of others, only what it should take."""

import base64
import io
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import free_port
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from project import ROOT, blocks
from skimage import data
from small_checkout import EXPERIMENTS, small_checkout

from app.serve import BODY, serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Gradio, Python and the uploads would write."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(temporary: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "TMPDIR", "TEMP", "TMP"):
            patch.setenv(name, str(temporary))
        patch.setattr("tempfile.tempdir", str(temporary))
        served, address = serve(small_checkout(), port=free_port(), block=False)
        yield address
        served.close(verbose=False)


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(address, verbose=False, download_files=False)


def text(image: Image.Image, format: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}


def test_the_endpoints_answer_as_the_pages_do(client: Client) -> None:
    assert set(client.predict(api_name="/models")) == {"workspace", *EXPERIMENTS}
    photograph = client.predict(api_name="/photographs")[0]
    found = client.predict(photograph, "workspace", api_name="/reconstruct")
    tampered = client.predict(photograph, "workspace", api_name="/tamper")
    assert tampered["psnr"] == pytest.approx(found["scores"]["psnr"])
    assert found["reconstruction"] == tampered["reconstruction"]
    fewer = client.predict(photograph, "workspace", top=4, bits=3, api_name="/tamper")
    assert fewer["bits_per_pixel"] < tampered["bits_per_pixel"]
    *_, last = client.submit(photograph, "workspace", "lbfgs", 3, api_name="/bound")
    assert last["evaluation"] == [0, 1, 2, 3]
    assert last["psnr"][0] == pytest.approx(found["scores"]["psnr"])
    assert last["feature_error"][0] is None


def test_an_error_is_a_sentence_and_the_session_goes_on(client: Client) -> None:
    for photograph, model, reason in (
        ("data:image/png;base64,AAAA", "workspace", "no image that can be read"),
        ("nobody.png", "workspace", "no test photograph"),
        (text(Image.fromarray(data.chelsea())), "<b>nothing</b>", "&lt;b&gt;nothing&lt;/b&gt;"),
    ):
        with pytest.raises(AppError, match=reason):
            client.predict(photograph, model, api_name="/reconstruct")
    assert client.predict(api_name="/models")


def test_nothing_is_written(client: Client, temporary: Path) -> None:
    photograph = text(Image.fromarray(data.coffee()), "JPEG")
    client.predict(photograph, "workspace", api_name="/reconstruct")  # whatever a first call leaves: fonts, bytecode
    before = files(temporary, small_checkout())
    client.predict(text(Image.fromarray(data.rocket()), "JPEG"), "workspace", api_name="/reconstruct")
    client.predict(photograph, "workspace", noise=1.0, api_name="/tamper")
    list(client.submit(photograph, "workspace", "lbfgs", 2, api_name="/bound"))
    assert files(temporary, small_checkout()) == before
    assert not [
        path for path in before if path.suffix in (".png", ".jpg", ".jpeg", ".webp") and temporary in path.parents
    ]


def posted(address: str, path: str, content: bytes, kind: str) -> int:
    request = urllib.request.Request(address + path, content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_files_are_refused_because_they_would_be_written(address: str, temporary: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nsecret\r\n--x--\r\n'
    for path in ("gradio_api/upload", "gradio_api/component_server", "gradio_api/upload/"):
        assert posted(address, path, form, "multipart/form-data; boundary=x") == 403
    assert posted(address, "gradio_api/upload", b"{}", "application/json") == 403
    assert not any(b"secret" in path.read_bytes() for path in files(temporary))


def test_a_request_has_a_limit(address: str) -> None:
    request = urllib.request.Request(address + "gradio_api/queue/join", b"{}", {"Content-Length": str(BODY + 1)})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 413


def test_it_listens_on_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


def test_the_first_paint_waits_for_no_torch_and_tells_nobody() -> None:
    lines = (
        "import sys, tempfile",
        "from pathlib import Path",
        "import app.serve as serve",
        "serve.blocks(serve.Laboratory(Path(tempfile.mkdtemp())))",
        "from gradio.analytics import analytics_enabled",
        "print([name for name in ('torch', 'dvc') if name in sys.modules], analytics_enabled())",
    )
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_ANALYTICS_ENABLED"}
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.stdout.split("\n")[-2] == "[] False", run.stderr


def test_the_five_lines_of_the_page_about_it(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks("docs/app.md", "python") if "Client(" in block]
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 5
    Image.fromarray(data.chelsea()).save(tmp_path / "photograph.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:7860", address), {})
    assert (tmp_path / "reconstruction.png").read_bytes().startswith(b"\x89PNG")
