"""Every error a user can meet. Each says what was asked, what was found, and what to do."""


class TunesmithError(Exception):
    """Everything this package raises on purpose; commands print it without a traceback."""

    exit_code = 1


class InputError(TunesmithError):
    """What was asked or given cannot be used: wrong argument, file, column, name or setting."""

    exit_code = 2


class UnknownName(InputError):
    """A name was looked up that nothing is registered under."""


class SettingsError(InputError):
    """A setting is unknown, has the wrong type or is out of range."""


class DataError(InputError):
    """A data file or its rows cannot be used."""


class ModelError(InputError):
    """A model cannot be found, read safely, or used for the task."""


class NoSuchTarget(InputError):
    """A target pattern matched no module of the model."""


class NotMergeable(InputError):
    """The method adds computation that no change of the base weights can express."""


class RunError(InputError):
    """A run folder is missing, incomplete, or cannot be used for what was asked."""


class RunLocked(RunError):
    """Another process is working in the run folder."""


class Offline(TunesmithError):
    """Something must be fetched and the network is out of reach."""

    exit_code = 75


class DiskFull(TunesmithError):
    """The disk has too little room; the last good checkpoint is untouched."""

    exit_code = 75


class TrainingDiverged(TunesmithError):
    """A loss or gradient was not finite; the weights are those of the last good step."""


class WorkerLost(TunesmithError):
    """A process that shared the work failed or was ended from outside; the last checkpoint is untouched."""


class Interrupted(TunesmithError):
    """A signal asked the run to stop; everything is saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line that fits into a message of our own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
