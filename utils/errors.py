"""The ways a run can end other than well, each with its exit code.

Every error that a user can cause is one of these, with a one-line message: what is wrong, where, the value found, the
value expected, what to do. `train_dist.py` prints that line once and leaves with the code; anything else is a bug and
keeps its traceback.
"""


class TrainingError(Exception):
    """An end that the user is told of in one line. `exit_code` is what the process returns."""

    exit_code = 1


class UsageError(TrainingError):
    """A flag, a recipe or a combination of them is wrong."""

    exit_code = 2


class DataError(TrainingError):
    """The data set is missing, damaged, unfinished or not what it says."""

    exit_code = 3


class CheckpointError(TrainingError):
    """A checkpoint cannot be read, does not fit, or could not be written."""

    exit_code = 4


class NumericsError(TrainingError):
    """Loss, gradients or weights are not finite, and going on would not help."""

    exit_code = 5


class DistributedError(TrainingError):
    """A peer process is missing, silent or different."""

    exit_code = 6


class EnvironmentFault(TrainingError):
    """A package, a device or a driver is missing or too old."""

    exit_code = 7


class StopRequested(TrainingError):
    """A signal asked the run to stop; it left a checkpoint, and the same command with --resume auto goes on."""

    exit_code = 75
