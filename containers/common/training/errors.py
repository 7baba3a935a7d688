"""Errors that training programs show as one message, and the exit codes of the programs.

A launcher can tell from the exit code if a restart helps: it helps after a crash (1, or 128 + signal) and
after a requested stop, and not while data, storage or options are wrong.
"""

EXIT_CRASHED = 1  # code of Python for an exception without a message of its own
EXIT_DATA = 65  # EX_DATAERR: the data are missing, unreadable or made with another tokenizer
EXIT_STORAGE = 74  # EX_IOERR: a checkpoint or report cannot be read or written
EXIT_CONFIGURATION = 78  # EX_CONFIG: options, environment or model configuration
EXIT_TERMINATED = 143  # 128 + SIGTERM: stopped on request, not finished
# Exit codes of programs that printed why they ended; a restarted program would fail again.
EXPLAINED = (EXIT_DATA, EXIT_STORAGE, EXIT_CONFIGURATION, EXIT_TERMINATED)


class TrainingError(Exception):
    """Error that all ranks raise and the user can fix; the first rank prints its message, which says how."""

    code = EXIT_CONFIGURATION


class DataError(TrainingError):
    """Missing, damaged or unsuitable data."""

    code = EXIT_DATA


class StorageError(TrainingError):
    """Checkpoint or report that cannot be written or read."""

    code = EXIT_STORAGE


class RankError(TrainingError):
    """Error of a rank that is not connected to the other ranks; every such rank prints its own error."""
