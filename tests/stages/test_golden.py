"""The five messages that a user is most likely to meet in the first hour, word by word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT

from pipeline.core.errors import PipelineError
from pipeline.core.params import load_params
from pipeline.data.preparation.dataset import DATASETS
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData

PARAMS = ROOT / "params.yaml"


def div2k() -> object:
    dataset = DATASETS.get("div2k")
    return dataset(
        dataset.Options.model_validate(load_params(PARAMS, ["dataset=div2k"]).dataset_options), 0
    ).photographs()


GOLDEN: dict[str, tuple[Callable[[], object], str]] = {
    "a name": (
        lambda: load_params(PARAMS, ["loss=mes"]),
        "params.yaml: loss = 'mes' is unknown (did you mean 'mse'?); choose one of: hybrid, lpips, mse, perceptual, "
        "ssim_l1",
    ),
    "a key": (
        lambda: load_params(PARAMS, ["train.protocl=fast"]),
        "params.yaml: unknown key 'train.protocl' (did you mean 'protocol'?)",
    ),
    "photographs": (
        div2k,
        "datasets.div2k.root = 'data/raw/DIV2K': 'data/raw/DIV2K' is not a folder; expected:\n"
        "  data/raw/DIV2K/DIV2K_train_HR/0001.png … 0800.png\n"
        "  data/raw/DIV2K/DIV2K_valid_HR/0801.png … 0900.png\n"
        "fetch DIV2K_train_HR.zip and DIV2K_valid_HR.zip from https://data.vision.ee.ethz.ch/cvl/DIV2K/ and unpack "
        "them there",
    ),
    "prepared data": (
        lambda: PreparedData.open(Path("data/prepared")),
        "data/prepared holds no finished prepared data (manifest.json is missing); prepare the data again with "
        "`dvc repro -f prepare` or `python -m stages prepare`",
    ),
    "features": (
        lambda: open_store(Path("features/vgg16/block1")),
        "features/vgg16/block1: there is no feature store here; run `python -m stages extract --backbone vgg16`",
    ),
}


@pytest.mark.parametrize("what", GOLDEN)
def test_a_first_message(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask, sentence = GOLDEN[what]
    with pytest.raises(PipelineError) as error:
        ask()
    assert str(error.value) == sentence
