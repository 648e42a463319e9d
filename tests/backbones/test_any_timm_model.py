"""docs/backbones.md: a timm model needs an entry in params.yaml and nothing else, from photographs to scores."""

import json
from pathlib import Path

import pytest
from small_experiment import CPU, PARAMS, experiment

from pipeline.core.errors import ShapeError
from pipeline.evaluation.run import evaluate
from pipeline.stores.opening import open_store
from stages.loading import load_checked

ENTRY = "backbones.mine={{library: timm, model: {model}, weights: random, seed: 0, layers: [{layer}]}}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layer", "shape", "decoder"),
    [
        ("test_vit", "block1", (64, 4, 4), "patch_transformer"),
        ("test_convnext", "stage2", (32, 8, 8), "transposed_conv"),
    ],
)
def test_an_entry_is_enough(tmp_path: Path, model: str, layer: str, shape: tuple[int, int, int], decoder: str) -> None:
    made = experiment(decoder, ENTRY.format(model=model, layer=layer), "backbone=mine", f"layer={layer}")
    store = open_store(made.features / "mine" / layer)
    assert store.layout.row_shape == shape
    evaluate(made.params, made.data(), made.paths(metrics=tmp_path), CPU)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == len(made.data().rows("test"))
    assert metrics["psnr"]["mean"] > metrics["floors"]["mean_colour"]["psnr"]


def test_dinov2s_patches_need_a_decoder_for_any_whole_ratio() -> None:
    """The example of docs/backbones.md, with what that page says about it."""
    entry = ENTRY.format(model="vit_small_patch14_dinov2", layer="block0")
    chosen = [entry, "backbone=mine", "layer=block0", "decoder=transposed_conv"]
    with pytest.raises(
        ShapeError, match=r"^mine.block0 and decoder = 'transposed_conv' do not go together: .*ratio 14 "
    ):
        load_checked(PARAMS, chosen)
    load_checked(PARAMS, [*chosen, "decoder=patch_transformer"])
