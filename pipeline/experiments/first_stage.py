"""The first of two stages: every photograph is refined from its features, as a further input of a decoder.

Refining is an extraction, resumable and checked like any other. The frozen network has the refiner attached, and its
one layer is the refined image. The features are computed again and rounded as in their store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.backbones.base import FrozenNetwork
from pipeline.core.errors import CheckpointError
from pipeline.core.files import write_whole
from pipeline.core.former import recorded_first_stage
from pipeline.core.params import LINEAR, NONE, Params
from pipeline.core.paths import LEARNED, LINEAR_FOLDER, Paths
from pipeline.core.sources import FeatureShape, ImageSize, Inputs
from pipeline.extraction.run import extract
from pipeline.loading.inputs import REFINED_IMAGES, first_stage_facts, open_features
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import READ_BATCH, batched, spread
from pipeline.models.common.checkpoint import save_model
from pipeline.models.common.inverter import RGB, Blueprint, Inverter, load_inverter
from pipeline.models.common.prior import load_prior
from pipeline.refinement.base import Refiner, Step, build_refiner
from pipeline.refinement.consistency import open_networks
from pipeline.refinement.examples import SplitExamples
from pipeline.refinement.misleading import VALIDATION_IMAGES, misleading
from pipeline.refinement.networks import Networks
from pipeline.stores.base import FeatureStore
from pipeline.stores.encoding import decode, encode
from pipeline.stores.prepared import PreparedData
from pipeline.training.readout import load_readout, readout_state, readout_summary, solve_readout

SHARD_MEGABYTES = 8  # some minutes of work, the most that a kill can cost


def refine_photographs(params: Params, data: PreparedData, paths: Paths, device: torch.device) -> str | None:
    """Refine every view of `data` by `two_stage.refine`, starting from the image of the read-out.

    `paths.first_stage` gets the store of the refined images, the read-out, and the refiner's state, with which any
    other photograph can be refined in the same way. A killed run continues.

    Returns:
        A warning if refining lowers the PSNR of validation images while their feature error falls; else None.

    Raises:
        StoreError: the features are missing, stale or damaged, or were made with other weights than params.yaml names.
        DataError: the image prior, which `map` needs, is missing or of other data.
        WeightsError: the network's weights are missing here.
    """
    (store,) = open_features(paths.features, params.sources, params, data)
    facts = first_stage_facts(params, store)
    networks = open_networks(params, [store], device)
    with CachedFeatures(data, Inputs((store,)), device, params.train.resident) as cached:
        start, summary = _fitted_readout(params, data, store, cached)
        stage = FirstStage(start, build_first_stage(facts, networks, data.crop), store.dtype)
        read_prior = partial(load_prior, paths.prior, data)
        stage.refiner.learn(SplitExamples(data, cached, params.extract.cpu_batch_size, read_prior))
        held_out = data.rows("validation")
        warning = misleading(
            facts["refiner"],
            "two_stage",
            stage.refiner.advice,
            cached.batches(batched(held_out[spread(len(held_out), VALIDATION_IMAGES)], READ_BATCH)),
            lambda batch: (stage.start_of(*batch.inputs.features), stage.steps(*batch.inputs.features)),
        )
    network = RefinedLayer(networks, stage, facts)
    settings = params.extract.model_copy(update={"precision": "fp32"})  # of the images, not of the network
    kept = params.store.model_copy(update={"shard_megabytes": SHARD_MEGABYTES})
    extract(network, data, paths.first_stage / REFINED_IMAGES.parent, kept, settings, device, paths.work)
    write_whole(paths.first_stage / LEARNED, save(stage.refiner.state()))
    description = {
        "blueprint": start.blueprint.plain(),
        "parameters": sum(parameter.numel() for parameter in start.parameters()),
        "stores": {str(store.source): store.fingerprint},
        "data": store.data_fingerprint,
        "ridge": summary,
        "first_stage": facts,
    }
    save_model(paths.first_stage / LINEAR_FOLDER, start.state_dict(), description)
    return warning


def build_first_stage(facts: Mapping[str, Any], networks: Networks, crop: int) -> Refiner:
    """The refiner that `facts` (`pipeline.loading.inputs.first_stage_facts`) describe, before it has learned."""
    (source,) = networks.sources
    layer = networks.known_layer(source, ImageSize(crop, crop))
    return build_refiner(facts["refiner"], recorded_first_stage(facts)["options"], layer, facts["budget"])


def load_first_stage(
    facts: Mapping[str, Any], networks: Networks, models: Path, crop: int, device: torch.device
) -> FirstStage:
    """The first stage saved beside the decoder in `models`. Raises CheckpointError: it is missing or damaged."""
    start = load_inverter(models / LINEAR_FOLDER, device)
    refiner = build_first_stage(facts, networks, crop)
    path, remedy = models / LEARNED, "train again: python -m stages train"
    try:
        refiner.load_state({name: tensor.to(device) for name, tensor in load_file(path).items()})
    except FileNotFoundError:
        raise CheckpointError(f"{path}, the refiner's state, is missing; {remedy}") from None
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}, the refiner's state, is damaged ({error}); {remedy}") from None
    return FirstStage(start, refiner, facts["dtype"])


class FirstStage:
    """From features to a refined image: rounding as in the store, the read-out, then the refiner."""

    def __init__(self, start: Inverter, refiner: Refiner, dtype: str) -> None:
        self.start, self.refiner, self.dtype = start, refiner, dtype

    def steps(self, features: Float[Tensor, "b c h w"]) -> Iterator[Step]:
        """One step for each evaluation. `features` must not be inference tensors, because a refiner differentiates."""
        features = self._rounded(features)
        with torch.no_grad():
            start = self.start(Inputs((features,)))
        return self.refiner.refine(features, start)

    @torch.no_grad()
    def start_of(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """The image of the read-out, RGB in [0, 1]."""
        return self.start(Inputs((self._rounded(features),)))

    def __call__(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """The image of the last step, RGB in [0, 1]."""
        (last,) = deque(self.steps(features), maxlen=1)
        return last.images.detach()

    def _rounded(self, features: Tensor) -> Tensor:
        return decode(*encode(features, self.dtype), self.dtype)


class RefinedLayer(FrozenNetwork):
    """A frozen network followed by the first stage, whose one layer is the refined image."""

    def __init__(self, networks: Networks, stage: FirstStage, description: Mapping[str, Any]) -> None:
        super().__init__()
        (source,) = networks.sources
        self.name = f"{source.backbone}-{source.layer}-{REFINED_IMAGES.parent}"  # of the unfinished work
        self.backbone = networks.backbones[source.backbone]  # a submodule, so that `to` reaches it
        self._stage, self._description = stage, description

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> dict[str, Tensor]:
        """RGB in [0, 1] → the refined image of its features."""
        with torch.inference_mode(False):  # the refiner differentiates
            images = images.clone()  # inference tensors cannot be differentiated
            with torch.no_grad():
                features = self._stage.refiner.layer(images)
            return {REFINED_IMAGES.name: self._stage(features)}

    def shapes(self, image: ImageSize) -> dict[str, FeatureShape]:
        return {REFINED_IMAGES.name: FeatureShape(RGB, image.height, image.width)}

    def describe(self) -> dict[str, Any]:
        return {**self.backbone.describe(), "refined": dict(self._description)}


def _fitted_readout(
    params: Params, data: PreparedData, store: FeatureStore, cached: CachedFeatures
) -> tuple[Inverter, dict[str, Any]]:
    """The fitted read-out of one store, and the summary of its solution."""
    shapes, image = {store.source: store.shape}, ImageSize(data.crop, data.crop)
    one_stage = params.two_stage.model_copy(update={"refine": NONE})
    alone = params.model_copy(update={"decoder": LINEAR, "two_stage": one_stage})
    inverter = Inverter(Blueprint.of(alone, shapes, image))
    inverter.fit_statistics([(torch.from_numpy(store.mean), torch.from_numpy(store.std))])
    inverter.to(cached.device).eval()
    solution = solve_readout(inverter, data, cached)
    load_readout(inverter, readout_state(solution))
    return inverter, readout_summary(solution)
