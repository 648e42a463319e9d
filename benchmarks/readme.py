"""`python -m benchmarks.readme`: measure the README's picture and tables again.

Runs the study by depth and the experiments through DVC in temporary copies (cached results are not computed again),
compares them, and replaces the text between the markers in README.md. No number of the tables is typed by hand.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

README, OUTPUT = Path("README.md"), Path("docs/sample")
STUDY, DEPTH = "studies/depth.yaml", Path("docs/depth")
NETWORK = "efficientnet_lite0"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CREDITS = (
    "Photographs: [credits and licences](docs/data.md#the-sample); `flower` by vultilion, `china` by danielbuechele "
    "(CC BY 2.0)."
)
PICTURES = "evaluate.reconstructions=3"
EXPERIMENTS = {
    "stage1-residual": (),
    "stage1-transposed_conv": ("decoder=transposed_conv",),
    "stage1-linear": ("decoder=linear",),
}


def main() -> None:
    for name, settings in EXPERIMENTS.items():
        subprocess.run(["dvc", "exp", "remove", "--quiet", name], check=False, capture_output=True)  # an earlier one
        _run("dvc", "exp", "run", "--temp", "--name", name, *_options((*settings, PICTURES)))
    _run("python", "-m", "stages", "compare", *EXPERIMENTS, "--out", str(OUTPUT))
    _run("python", "-m", "stages", "study", STUDY, "--out", str(DEPTH))
    README.write_text(with_results(README.read_text(), depth_table(), (OUTPUT / "leaderboard.md").read_text()))


def depth_table() -> str:
    return (DEPTH / f"depth_{NETWORK}.md").read_text()


def with_results(readme: str, depth: str, leaderboard: str) -> str:
    """`readme` with the picture and table by depth and the leaderboard between its markers."""
    picture = f"![the same photographs, rebuilt from five depths]({DEPTH / f'depth_{NETWORK}.png'})"
    parts = "\n\n".join((picture, depth.strip(), CREDITS, leaderboard.strip()))
    block = f"{BEGIN}\n{parts}\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, readme, flags=re.DOTALL)


def _options(settings: tuple[str, ...]) -> list[str]:
    return [part for setting in settings for part in ("-S", setting)]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
