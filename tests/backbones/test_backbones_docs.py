"""docs/backbones.md and params.yaml say what the backbones are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from known_backbones import SIZE, TABLE
from ruamel.yaml import YAML
from torch import Tensor

from pipeline.backbones.backbone import check_backbone, feature_shapes
from pipeline.backbones.table import BACKBONES
from pipeline.core.params import BackboneParams, load_params

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "backbones.md").read_text()


def test_the_documented_table_is_the_right_one() -> None:
    rows = [line for line in DOCUMENT.splitlines() if re.match(r"\| `\w+` \| (torchvision|timm) `", line)]
    assert len(rows) == len(TABLE)
    for row in rows:
        name, library, model = re.findall(r"`(\w+)` \| (\w+) `(\w+)`", row)[0]
        assert (BACKBONES[name].library, BACKBONES[name].model) == (library, model)
        shapes = {layer: str(shape) for layer, shape in TABLE[name].items()}
        documented = dict(re.findall(r"`(\w+)` (\d+×\d+×\d+)", row))
        assert documented.items() <= shapes.items()
        assert "…" in row or documented == shapes


@pytest.mark.slow
def test_the_documented_entries_and_program_work(monkeypatch: pytest.MonkeyPatch) -> None:
    entries: dict[str, dict] = {}
    for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL):
        entries |= YAML(typ="safe", pure=True).load(block)["backbones"]
    assert {"dinov2_small", "convnext_atto", "swin_tiny", "vgg19", "my_vit"} == set(entries)
    for name, values in entries.items():
        entry = BackboneParams.model_validate(values)
        assert set(feature_shapes(name, entry, entry.layers, SIZE)) == set(entry.layers)
        if entry.weights == "imagenet":
            check_backbone(name, entry, SIZE)
    monkeypatch.chdir(ROOT)
    found: dict[str, dict[str, Tensor]] = {}
    exec(re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0], found)
    assert {layer: tuple(f.shape) for layer, f in found["features"].items()} == {
        "block1": (2, 64, 112, 112),
        "block3": (2, 256, 28, 28),
    }


def test_every_layer_of_the_table_can_be_chosen_in_params_yaml() -> None:
    backbones = load_params(ROOT / "params.yaml").backbones
    assert {name: backbones[name].layers for name in TABLE} == {name: tuple(layers) for name, layers in TABLE.items()}
