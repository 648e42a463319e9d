"""`python -m benchmarks.startup`: seconds from a command to its first work, as multiples of `import torch`.

Prepared photographs are missing, so a stage ends where its work would begin, after importing its modules and
validating params.yaml. `check` runs first, so that later stages skip its checks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bars import Bar, Line, against, markdown, seconds, side_by_side

ROUNDS = 5
TORCH = "python -c 'import torch'"
STAGE = Bar(at_most=1.3)
NOWHERE = "nowhere"  # a folder that is not there
COMMANDS = {  # arguments of `python -m stages`, and the bar where there is one
    "summary": ((), None),
    "check": ((), None),
    "inspect": ((NOWHERE,), None),
    "prior": (("--root", NOWHERE), STAGE),
    "extract": (("--root", NOWHERE), STAGE),
    "train": (("--root", NOWHERE), STAGE),
    "evaluate": (("--root", NOWHERE), STAGE),
    "plan": (("--root", NOWHERE), None),
    "compare": ((NOWHERE,), None),
}


def main() -> None:
    subprocess.run([sys.executable, "-m", "stages", "check"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], float]] = {TORCH: partial(_timed, "-c", "import torch")}
        for name, (arguments, _) in COMMANDS.items():
            placed = [str(Path(folder) / each) if each == NOWHERE else each for each in arguments]
            runs[name] = partial(_timed, "-m", "stages", name, *placed)
        found = side_by_side(runs, ROUNDS)
    lines = [Line(TORCH, f"{median(found[TORCH]):.2f} s", 1.0)]
    for name, (_, bar) in COMMANDS.items():
        ratio = against(found[name], found[TORCH])
        lines.append(Line(f"python -m stages {name}", f"{median(found[name]):.2f} s", ratio, bar))
    print(markdown(lines))


def _timed(*arguments: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, *arguments], capture_output=True))


if __name__ == "__main__":
    main()
