"""Models and first stages that were saved when code had defaults: an option that they do not record is what it was."""

import pytest

from pipeline.core.former import FORMER, recorded, recorded_first_stage
from pipeline.core.params import BackboneParams
from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.fusion import FUSIONS
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.refinement.base import REFINERS

REGISTRIES = {"decoders": DECODERS, "fusions": FUSIONS, "refiners": REFINERS}
RECORD = {
    "sources": ["a.x", "b.y"],
    "shapes": [[8, 4, 4], [6, 4, 4]],
    "image": [16, 16],
    "decoder": "attention",
    "decoder_options": {"min_channels": 4},
    "fusion": "concat",
    "fusion_options": {"channels": 8},
    "linear": {},
}


@pytest.mark.parametrize("section", [section for section in FORMER if "." in section])
def test_former_values_are_legal_options(section: str) -> None:
    kind, _, name = section.partition(".")
    options = REGISTRIES[kind].get(name).Options
    assert options.model_validate(FORMER[section])
    assert {*FORMER[section]} <= {*options.model_fields}
    assert {*FORMER["backbones"]} <= {*BackboneParams.model_fields}


def test_what_a_record_states_counts() -> None:
    assert recorded("refiners.lbfgs", {}) == {"history": 20}
    assert recorded("refiners.lbfgs", {"history": 3}) == {"history": 3}
    assert recorded("refiners.of_your_own", {"x": 1}) == {"x": 1}


def test_an_inverter_is_built_from_a_record_that_lacks_options() -> None:
    blueprint = Blueprint.parse(RECORD)
    assert (blueprint.decoder_options["blocks"], blueprint.decoder_options["min_channels"]) == (4, 4)
    assert blueprint.fusion_options == {"channels": 8, "grid": "largest"}
    complete = RECORD | {"decoder_options": blueprint.decoder_options, "fusion_options": blueprint.fusion_options}
    Inverter(blueprint).load_state_dict(Inverter(Blueprint.parse(complete)).state_dict())


def test_a_first_stage_that_does_not_record_an_option_is_the_same() -> None:
    facts = {"refiner": "map", "options": FORMER["refiners.map"], "start": {"kernel": None}, "budget": 24}
    older = facts | {"options": {"strengths": [3e-3], "descent": "accelerated"}, "start": {}}
    assert recorded_first_stage(older) == recorded_first_stage(facts) == facts
    assert recorded_first_stage(older | {"options": {"strengths": [1e-2]}}) != facts
