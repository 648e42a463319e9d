"""Devices that are not there, and seeds."""

from pathlib import Path

import pytest
import torch
from messages import says
from project import Project

from pipeline.core.errors import DeviceError
from pipeline.core.runtime import choose_device, enough_memory, seed_everything, source_commit


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", "CPU", ""])
def test_an_unknown_device(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        choose_device(name)
    assert str(caught.value) == f"--device {name} is unknown; use auto, cpu, cuda or cuda:N"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        choose_device(name)
    says(caught.value, f"--device {name}", "no CUDA device", "--device auto or cpu")


def test_auto_and_cpu() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_seeds_repeat() -> None:
    drawn = []
    for _ in range(2):
        seed_everything(3)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_the_source_commit_is_the_librarys_last_and_says_when_files_differ(tmp_path: Path) -> None:
    project, library = Project(tmp_path), tmp_path / "library"
    library.mkdir()
    assert source_commit(library) is None
    project.run("git", "init", "--quiet")
    project.run("git", "config", "user.name", "Test")
    project.run("git", "config", "user.email", "test@example.org")
    (library / "a.py").write_text("1")
    project.commit("library")
    commit = project.run("git", "rev-parse", "HEAD").output.strip()
    assert source_commit(library) == commit
    (tmp_path / "results.txt").write_text("30 dB")
    project.commit("results")
    assert source_commit(library) == commit
    (library / "a.py").write_text("2")
    assert source_commit(library) == f"{commit} and edits"


def test_deterministic_kernels_do_not_fill_memory_that_is_about_to_be_written() -> None:
    seed_everything(3)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("CUDA out of memory: CUBLAS_STATUS_ALLOC_FAILED. The rest"),
    ],
)
def test_a_gpu_whose_memory_ran_out(error: RuntimeError) -> None:
    with pytest.raises(DeviceError) as caught, enough_memory("use --device cpu"):
        raise error
    assert str(caught.value) == f"the GPU's memory ran out ({str(error).split('. ')[0]}); use --device cpu"


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"), enough_memory("use --device cpu"):
        raise RuntimeError("shapes do not match")
