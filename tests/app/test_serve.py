"""The server: the same functions over HTTP, nothing written, nothing asked of others, only what it should take."""

import base64
import io
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
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
from pipeline.core.errors import DataError

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


def test_depth_and_experiments_answer_as_the_pages_do(client: Client) -> None:
    photograph = client.predict(api_name="/photographs")[0]
    board = client.predict(api_name="/experiments")
    assert {name for row in board for name in row["experiment"].split(", ")} == {"workspace", "HEAD", *EXPERIMENTS}
    layers = client.predict(photograph, "efficientnet_lite0", api_name="/depth")
    assert [(one["layer"], one["weights"].partition(" ")[0]) for one in layers] == [
        ("stage1", "package"),
        ("stage2", "package"),
        ("stage1", "random"),
    ]
    for one in layers:
        alone = client.predict(photograph, one["model"], api_name="/reconstruct")
        assert one["psnr"] == pytest.approx(alone["scores"]["psnr"], abs=1e-4)
        assert one["picture"].startswith("data:image/png;base64,")
    with pytest.raises(AppError, match="no model of a layer of 'nothing'"):
        client.predict(photograph, "nothing", api_name="/depth")


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("reconstruct", [None, "workspace"], "photograph = None"),
        ("reconstruct", [5, "workspace"], "photograph = 5"),
        ("reconstruct", ["x" * 5000, "workspace"], "no test photograph 'xxx"),
        ("reconstruct", ["data:image/png;base64,AAAA", "x" * 5000], "names no model"),
        ("reconstruct", ["data:image/png;base64,AAAA", "a\0b"], "names no model"),
        ("reconstruct", ["data:image/png;base64,AAAA", {}], "model = {}"),
        ("tamper", ["photo", "workspace", "many"], "top = 'many'"),
        ("tamper", ["photo", "workspace", 0, -1, 0.0, 0, [0.0, 0.0]], "blank"),
        ("tamper", ["photo", "workspace", 0, -1, 0.0, 99], "bits = 99"),
        ("tamper", ["photo", "workspace", 0, -1, 1e300], "noise = 1e+300"),
        ("depth", ["photo", None], "network = None"),
        ("depth", ["nobody.png", "efficientnet_lite0"], "no test photograph 'nobody.png'"),
        ("bound", ["photo", "workspace", "map", 0], "evaluations = 0"),
        ("bound", ["photo", "workspace", "nothing", 1], "nothing"),
    ],
)
def test_wrong_arguments_get_a_sentence_that_names_them(
    client: Client, name: str, arguments: list[object], reason: str
) -> None:
    photograph = client.predict(api_name="/photographs")[0]
    arguments = [photograph if value == "photo" else value for value in arguments]
    with pytest.raises(AppError) as error:
        client.predict(*arguments, api_name=f"/{name}")
    assert reason in str(error.value)
    assert len(str(error.value)) < 1000


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
    pictures = [path for path in files(temporary) if path.suffix in (".png", ".jpg", ".jpeg", ".webp")]
    assert not [path for path in pictures if not path.relative_to(temporary).parts[0].startswith("laboratory-")]


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


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 400


def test_an_address_that_is_taken_says_which_option(address: str) -> None:
    with pytest.raises(DataError, match="--port"):
        serve(small_checkout(), port=int(address.rstrip("/").rpartition(":")[2]), block=False)


def test_it_listens_on_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


def test_what_was_fetched_goes_with_a_server_that_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages", "app", "--root", str(small_checkout()), "--port", str(free_port())]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path)}
    ignored = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # as a shell's background job inherits it
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=ignored)
    assert server.stdout is not None
    with server.stdout as lines:
        assert "http://127.0.0.1:" in next(lines)
        assert list(tmp_path.glob("laboratory-*"))
        server.terminate()
        server.wait(60)
    assert not list(tmp_path.glob("laboratory-*"))


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
