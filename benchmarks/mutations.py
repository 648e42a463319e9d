"""`python -m benchmarks.mutations`: break the library in a scratch copy, one line at a time; a test must notice each.

Prints the first failed test of each mutation; exits with 1 if a mutation survives. A line that no longer exists is an
error.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutation:
    """In `file`, the only `old` becomes `new`; one of `tests` (arguments of pytest) must fail."""

    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(  # written through the hard link into DVC's cache
        "pipeline/core/files.py",
        "os.replace(part, path)",
        "path.write_bytes(part.read_bytes())",
        "tests/core/test_files.py",
    ),
    Mutation(  # the last shard promises rows that do not exist
        "pipeline/stores/layout.py",
        "range(first, min(first + self.shard_rows, self.rows))",
        "range(first, first + self.shard_rows)",
        "tests/stores/test_store_contract.py",
    ),
    Mutation(  # of a test photograph and its copy elsewhere, the test split's is left out
        "pipeline/data/preparation/splitting.py",
        '("test", "validation", "train", None)',
        '(None, "test", "validation", "train")',
        "tests/data/test_preparation.py",
    ),
    Mutation(
        "pipeline/backbones/normalization.py",
        "(images - self.mean) / self.std",
        "images / self.std - self.mean",
        "tests/backbones/test_backbones.py -k mean_image",
    ),
    Mutation(  # SSIM's second constant
        "pipeline/metrics/similarity.py",
        "1 - 2 * var_d / (var_s + var_d + 2 * C2)",
        "1 - 2 * var_d / (var_s + var_d + C2)",
        "tests/metrics/test_similarity.py",
    ),
    Mutation(  # shards with other means add too little to the deviation
        "pipeline/extraction/moments.py",
        "np.square(distance) * self.count * share",
        "np.square(distance) * share",
        "tests/extraction/test_extraction.py",
    ),
    Mutation(  # the rows that fill no batch are left out of an epoch
        "pipeline/loading/sampler.py",
        "left = ready[full:]",
        "left = ready[:0]",
        "tests/loading/test_cached.py",
    ),
    Mutation(  # two bands of the Haar transform change places
        "pipeline/models/parts/wavelets.py",
        "        (top - bottom) / 2,\n        (top_change + bottom_change) / 2,",
        "        (top_change + bottom_change) / 2,\n        (top - bottom) / 2,",
        "tests/models/test_wavelets.py",
    ),
    Mutation(  # a refinement that lowers PSNR is not warned of
        "pipeline/refinement/misleading.py",
        "if after >= before or last >= first:",
        "if after < before or last >= first:",
        "tests/evaluation/test_evaluation_refined.py -k warned",
    ),
    Mutation(  # the last epoch is kept, not the best
        "pipeline/training/fitter.py",
        'if validation["total"] < self.progress.best_loss:',
        "if True:",
        "tests/training/test_fitting.py",
    ),
    Mutation(  # the mean colour in the wrong unit by one level
        "pipeline/evaluation/baselines.py",
        "total / pixels / 255",
        "total / pixels / 256",
        "tests/evaluation/test_evaluation_parts.py -k mean_colour",
    ),
    Mutation(  # for LPIPS and errors lower is better
        "pipeline/experiments/comparison.py",
        "sign = 1 if METRICS.get(metric).higher_is_better else -1",
        "sign = 1",
        "tests/experiments/test_compare.py",
    ),
)


def scratch_copy(folder: Path) -> None:
    """The tracked files of this working tree, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def first_failure(folder: Path, tests: str) -> str | None:
    """The first test that fails in the copy; None when all pass."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests.split()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(f"pytest {tests} ran no test:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return found[1]


def main() -> None:
    survived = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scratch_copy(folder)
        for mutation in MUTATIONS:
            path = folder / mutation.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutation.old) != 1:
                raise RuntimeError(f"{mutation.file} holds {mutation.old!r} {text.count(mutation.old)} times, not once")
            path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
            test = first_failure(folder, mutation.tests)
            path.write_text(text, encoding="utf-8")
            survived += test is None
            print(f"{mutation.file}: {test or 'SURVIVED ' + mutation.tests}", flush=True)
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
