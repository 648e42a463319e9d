"""evaluate: score the trained decoder on the test split, and write pictures and a report."""

from pipeline.core.params import Params
from pipeline.core.paths import Paths
from pipeline.core.runtime import choose_device, enough_memory
from pipeline.evaluation import report, run
from pipeline.stores.prepared import PreparedData
from stages.summary import summary


def evaluate(settings: Params, paths: Paths, device: str) -> None:
    prepared, place = PreparedData.open(paths.data), choose_device(device)
    with enough_memory("lower evaluate.batch_size or pass --device cpu"):
        run.evaluate(settings, prepared, paths, place)
    report.write_report(paths.metrics)
    summary(paths.metrics)
