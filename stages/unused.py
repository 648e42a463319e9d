"""What stands for the output of a stage that an experiment does not need: DVC wants one. Needs no torch."""

from pipeline.core.files import write_whole
from pipeline.core.paths import Paths
from pipeline.models.common.checkpoint import clear_first_stage


def unused_slot(paths: Paths) -> None:
    """In place of the features of a backbone called none."""
    write_whole(paths.features / "none" / "none" / "unused", b"This slot of the ensemble holds no source.\n")


def unused_first_stage(paths: Paths) -> None:
    """In place of the refined photographs."""
    clear_first_stage(paths.first_stage)
    text = b"two_stage.refine is none: decoders see the features alone.\n"
    write_whole(paths.first_stage / "unused", text)
