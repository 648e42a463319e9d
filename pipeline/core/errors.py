"""Errors a user can cause. Each message is one sentence: the value, the rule, the remedy.

Each class also subclasses the builtin error that fits, for programs that call the library. Where the library itself
catches a builtin error, it lets these pass.
"""


class PipelineError(Exception):
    """Base of every error the command line prints without a traceback (exit code 1)."""


class ParamsError(PipelineError, ValueError):
    """params.yaml, or an override of it, asks for something that cannot be."""


class DataError(PipelineError, ValueError):
    """A data set, a photograph or the prepared data is missing, broken or inconsistent."""


class WeightsError(PipelineError, OSError):
    """Weights are missing, unreadable, or not those of the network they are meant for."""


class StoreError(PipelineError, OSError):
    """A feature store is missing, incomplete, stale, damaged, locked, or does not fit the disk."""


class ShapeError(PipelineError, ValueError):
    """A decoder, fusion or backbone cannot work at the requested shape."""


class CheckpointError(PipelineError, ValueError):
    """A saved model is missing, incomplete, or belongs to another configuration."""


class TrainingError(PipelineError, ArithmeticError):
    """Training cannot continue: the loss is not finite."""


class LockedError(PipelineError, BlockingIOError):
    """Another process is doing the same work now."""


class DeviceError(PipelineError, RuntimeError):
    """The requested device does not exist, or its memory does not suffice."""


# not an error: train, the score table, the report and leaderboards show it
NOTHING_GAINED = (
    "Training gained nothing: no epoch was better than the linear start in validation, so the start was kept and these "
    "are its scores. Lower protocols.*.learning_rate, give more photographs or views, or choose decoder: linear."
)
