"""Every layer with every decoder and every data set works, or is refused before any work by a sentence naming both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
from messages import says

from pipeline.core.errors import ParamsError, ShapeError
from pipeline.core.params import NONE, Params, load_params
from pipeline.data.preparation.dataset import DATASETS
from pipeline.models.common.decoder import DECODERS
from stages import networks
from stages.choices import check_experiment
from stages.loading import load_checked

PARAMS = Path(__file__).parents[2] / "params.yaml"
NETWORKS = [name for name in load_params(PARAMS).backbones if name != NONE]
BY_ANY_WHOLE_RATIO = {"linear", "patch_transformer", "residual"}


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` called once for the same arguments, whether it returns or refuses."""
    returned: dict[tuple[Any, ...], Any] = {}
    refused: dict[tuple[Any, ...], ShapeError] = {}

    def call(*arguments: Any) -> Any:
        if arguments not in returned | refused:
            try:
                returned[arguments] = function(*arguments)
            except ShapeError as error:
                refused[arguments] = error
        if arguments in refused:
            raise refused[arguments]
        return returned[arguments]

    return call


@pytest.fixture(autouse=True)
def networks_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers with one network built for all its layers, which is nearly all the time there is."""
    monkeypatch.chdir(tmp_path)  # where nothing was proved before
    whole = remembered(networks.feature_shapes)
    monkeypatch.setattr(networks, "check_backbone", remembered(networks.check_backbone))
    monkeypatch.setattr(
        networks,
        "feature_shapes",
        lambda name, entry, layers, image: {layer: whole(name, entry, entry.layers, image)[layer] for layer in layers},
    )


def outcomes(network: str, crop: int) -> Iterator[tuple[Params, str]]:
    """Each layer with each decoder, the data sets in turn, and the sentence that refuses it, or nothing."""
    params = load_params(PARAMS, [f"prepare.crop={crop}"])
    datasets = cycle(DATASETS.names())  # five, and seven decoders: each meets each
    for layer, decoder in product(params.backbone_params(network).layers, DECODERS.names()):
        chosen = {"backbone": network, "layer": layer, "decoder": decoder, "dataset": next(datasets)}
        one = params.model_copy(update=chosen)
        try:
            check_experiment(one)
            yield one, ""
        except ShapeError as error:
            yield one, str(error)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_at_the_crop_of_params_yaml_every_layer_goes_with_every_decoder(network: str) -> None:
    found = list(outcomes(network, load_params(PARAMS).prepare.crop))
    assert [(one.layer, one.decoder, sentence) for one, sentence in found if sentence] == []
    assert len(found) == len(load_params(PARAMS).backbone_params(network).layers) * len(DECODERS.names())


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_at_another_crop_a_refusal_names_what_excludes_each_other(network: str) -> None:
    """100 pixels: no multiple of a ViT's patch, no whole ratio for many layers, 25 for the last ones of the ResNets."""
    found = list(outcomes(network, 100))
    assert any(sentence for _, sentence in found)
    for one, sentence in found:
        if sentence.startswith(f"{network} cannot take images of 100×100 pixels"):
            continue
        if sentence:
            assert sentence.startswith(f"{one.sources[0]} and decoder = '{one.decoder}' do not go together: decoder ")
        if "power of two" in sentence:
            assert one.decoder not in BY_ANY_WHOLE_RATIO


def test_a_refusal_whole() -> None:
    with pytest.raises(ShapeError) as caught:
        load_checked(PARAMS, ["prepare.crop=100", "backbone=resnet34", "layer=layer4", "decoder=wavelet"])
    says(
        caught.value,
        "resnet34.layer4",
        "decoder = 'wavelet'",
        "512×4×4",
        "100×100",
        "ratio 25",
        "not a power of two",
        "choose decoder linear",
    )


@pytest.mark.parametrize("dataset", sorted(set(DATASETS.names()) - {"imagenet_val"}))
def test_every_other_data_set_passes_before_its_photographs_are_there(dataset: str) -> None:
    assert load_checked(PARAMS, [f"dataset={dataset}"]).dataset == dataset


def test_a_data_set_that_is_not_all_rgb_is_not_decoded_to_be_refused() -> None:
    with pytest.raises(ParamsError) as caught:
        load_checked(PARAMS, ["dataset=imagenet_val"])
    says(
        caught.value,
        "dataset = 'imagenet_val'",
        "grayscale and CMYK",
        "prepare.non_rgb = 'refuse'",
        "prepare.non_rgb: convert",
        "prepare.on_bad_image: skip",
    )
    for remedy in ("prepare.non_rgb=convert", "prepare.on_bad_image=skip", "datasets.imagenet_val.images=100"):
        assert load_checked(PARAMS, ["dataset=imagenet_val", remedy]).dataset == "imagenet_val"


def test_shapes_do_not_depend_on_the_data_set() -> None:
    """So the grids above need not be walked once for each."""
    check_experiment(load_params(PARAMS).model_copy(update={"dataset": "never read"}))
