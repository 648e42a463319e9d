"""Push, clone, pull, and nothing is left to run: against a folder, and against the S3 protocol on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from project import Project, computed_project

pytestmark = pytest.mark.slow

BUCKET = "experiments"
NOT_SECRET = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return computed_project(tmp_path_factory.mktemp("remotes") / "project")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an S3 server on the loopback interface, with an empty bucket."""
    for name, value in NOT_SECRET.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


def nothing_runs_after_a_pull(project: Project, clone: Path, *settings: tuple[str, ...]) -> None:
    """`settings` are arguments of `dvc remote`, given in the project and in its clone."""
    for arguments in settings:
        project.run("dvc", "remote", *arguments)
    assert "pushed" in project.run("dvc", "push").output
    pulling = project.clone(clone)
    for arguments in settings:
        pulling.run("dvc", "remote", *arguments)
    pulling.run("dvc", "pull")
    assert pulling.run("dvc", "repro").ran == []
    assert "up to date" in pulling.run("dvc", "status").output
    model = "models/model.safetensors"
    assert (pulling.root / model).read_bytes() == (project.root / model).read_bytes()


def test_a_folder(project: Project, tmp_path: Path) -> None:
    add = ("add", "--local", "--force", "--default", "storage", str(tmp_path / "storage"))
    nothing_runs_after_a_pull(project, tmp_path / "clone", add)


def test_s3(project: Project, tmp_path: Path, s3: str) -> None:
    add = ("add", "--local", "--force", "--default", "storage", f"s3://{BUCKET}/cache")
    nothing_runs_after_a_pull(project, tmp_path / "clone", add, ("modify", "--local", "storage", "endpointurl", s3))
    stored = boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket=BUCKET)
    assert stored["KeyCount"] > 10
