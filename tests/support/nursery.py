"""Processes that start at once: children of one that has already loaded torch, and has used none of it.

Run as a program it reads JSON lines [function, arguments…], forks for each, prints the child's pid, and the child
calls that function of test module `argv[1]`; when a child ends, its parent prints nothing: see `Child.wait`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Self


class Nursery:
    """Start with the module whose functions the children will call, and variables that torch reads at its import."""

    def __init__(self, module: str, variables: Mapping[str, str] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(variables or {})}
        self._process = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer()

    def start(self, function: str, *arguments: str) -> int:
        """Call `function` in a process of its own; its pid."""
        return int(self._ask(["start", function, *arguments]))

    def wait(self, pid: int) -> int:
        """Wait for its end: 0, or what `os.waitpid` says."""
        return int(self._ask(["wait", str(pid)]))

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, request: list[str]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return line.strip()


def serve(module_name: str) -> None:
    module = importlib.import_module(module_name)
    print("ready", flush=True)
    for line in sys.stdin:
        request, *rest = json.loads(line)
        if request == "wait":
            print(os.waitpid(int(rest[0]), 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # answers are the parent's
            getattr(module, rest[0])(*rest[1:])
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
