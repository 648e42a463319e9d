"""Placeholders for outputs of stages that an experiment does not need, which DVC requires. Needs no torch."""

import shutil

from pipeline.core.files import write_whole
from pipeline.core.paths import LEARNED, LINEAR_FOLDER, Paths
from pipeline.stores.manifest import REFINED_FOLDER


def unused_slot(paths: Paths) -> None:
    """Write the placeholder of an unused slot's features, those of the backbone `none`."""
    write_whole(paths.features / "none" / "none" / "unused", b"This slot of the ensemble holds no source.\n")


def unused_first_stage(paths: Paths) -> None:
    """Write the placeholder of the refined photographs, and remove an earlier first stage."""
    for name in (LINEAR_FOLDER, REFINED_FOLDER):
        shutil.rmtree(paths.first_stage / name, ignore_errors=True)
    (paths.first_stage / LEARNED).unlink(missing_ok=True)
    text = b"two_stage.refine is none: decoders see the features alone.\n"
    write_whole(paths.first_stage / "unused", text)
