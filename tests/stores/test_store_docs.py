"""What docs/store.md tells a reader to type works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from small_stores import write_store

PAGE = (Path(__file__).parents[2] / "docs/store.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["zarr", "h5py", "pipeline"])
def test_snippets_run(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    features = torch.rand(9, 2, 4, 4, generator=torch.Generator().manual_seed(0)).half().float()
    write_store(
        Path("features/efficientnet_lite0/stage1"),
        features,
        "hdf5" if "h5py" in snippet else "zarr",
        "float16",
        "lz4",
        4,
    )
    names: dict[str, object] = {}
    exec(snippet, names)
    expected = features[[0, 7, 3]] if "pipeline" in snippet else features[:4]
    found = names["features"] if "pipeline" in snippet else names["rows"]
    assert (torch.from_numpy(found).float() == expected).all()  # type: ignore[arg-type]


def test_every_bar_of_the_measured_table_holds() -> None:
    verdicts = re.findall(r"^\| .* \| [≥≤] [\d.]+ \| (\w+) \|$", PAGE, re.MULTILINE)
    assert len(verdicts) >= 15  # a row for every bar that benchmarks.store prints
    assert set(verdicts) == {"yes"}
