"""Commands that start at once: forks of a process that has loaded torch and DVC, and nothing of this project.

`python -m stages …` and `dvc …` spend seconds loading libraries. In the folder that `commands()` gives, `python` and
`dvc` are programs that hand their arguments, folder, environment and standard streams to a server, which forks for
each. The fork runs the module as `__main__`, in that folder; everything of this project is imported by it. Two forks of
one server have the same hash seed, and a fork outlives a caller that is killed with -9: tests of either run the
commands themselves (`real=True`).

Run as a program it is the server (`forks.py serve FOLDER`), or what the two programs call (`forks.py call PROGRAM …`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

SERVED = ("stages", "dvc")
LIBRARIES = (
    *("numpy", "scipy.linalg", "scipy.ndimage", "pandas", "PIL.Image", "PIL.ImageCms", "h5py", "hdf5plugin", "zarr"),
    *("torch", "torchvision", "timm", "lightning_fabric", "matplotlib.pyplot", "typer", "pydantic"),
    *("dvc.cli", "dvc.parsing", "dvc.repo.reproduce", "dvc.repo.experiments.run", "dvc.repo.experiments.queue.celery"),
)
CALLER = """#!/bin/sh
exec "{python}" -IS "{program}" call "$0" "$@"
"""


def commands() -> str:
    """A folder with `python` and `dvc` for the front of PATH; its server lives as long as this process."""
    global _folder
    if not _folder:
        _folder = _start()
    return _folder


_folder = ""


def _start() -> str:
    import atexit
    import shutil
    import subprocess
    import tempfile

    folder = tempfile.mkdtemp(prefix="forks_")  # short: the path of a socket has at most 108 bytes
    for name in ("python", "dvc"):
        with open(os.path.join(folder, name), "w", opener=lambda path, flags: os.open(path, flags, 0o755)) as file:
            file.write(CALLER.format(python=sys.executable, program=os.path.abspath(__file__)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, __file__, "serve", folder]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def end() -> None:
        server.communicate()
        shutil.rmtree(folder)

    atexit.register(end)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return folder


def serve(folder: str) -> dict[str, list[str]] | None:
    """Fork for each caller until standard input ends; returns in the forks, with what to run."""
    import gc
    import importlib
    import select

    for library in LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, all that was loaded
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, "socket"))
    listener.listen(64)
    print("ready", flush=True)
    watchers: set[int] = set()
    while True:
        ready, *_ = select.select([listener, sys.stdin], [], [])
        watchers -= {pid for pid in watchers if os.waitpid(pid, os.WNOHANG)[0]}
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        if pid := os.fork():
            watchers.add(pid)
            connection.close()
        else:
            listener.close()
            return _become(connection, os.path.join(folder, "python"))


def _become(connection: socket.socket, python: str) -> dict[str, list[str]]:
    """Fork again: the parent tells the caller the pid and the end of its child, which is what the caller asked for."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    channel = connection.makefile("rw")
    request = json.loads(channel.readline())
    if pid := os.fork():
        for stream in streams:
            os.close(stream)
        print(pid, file=channel, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=channel, flush=True)
        os._exit(0)
    channel.close()
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.executable = python  # what it starts itself is forked too
    return request


def call(program: str, *arguments: str) -> int:
    """Have the server run this command; its exit status. Other commands are the real python's."""
    if os.path.basename(program) == "dvc":
        arguments = ("-m", "dvc", *arguments)
    if arguments[:1] != ("-m",) or arguments[1] not in SERVED:
        os.execv(sys.executable, [sys.executable, *arguments])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.path.join(os.path.dirname(os.path.realpath(program)), "socket"))
    socket.send_fds(connection, [b"\n"], [0, 1, 2])
    channel = connection.makefile("rw")
    request = {"arguments": arguments[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
    print(json.dumps(request), file=channel, flush=True)
    pid = int(channel.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    status = int(channel.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def run(module: str, *arguments: str) -> None:
    """Run the module as `python -m` does, and end without tearing down the libraries, which takes seconds."""
    import atexit
    import runpy
    import threading
    import traceback

    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv, sys.path[:1] = [module, *arguments], [os.getcwd(), *filter(None, more)]
    status: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001  (printed, as the interpreter does)
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else bool(status))


if __name__ == "__main__":
    if sys.argv[1] == "call":
        sys.exit(call(*sys.argv[2:]))
    if request := serve(sys.argv[2]):
        run(*request["arguments"])
    os._exit(0)
