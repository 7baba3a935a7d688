"""Every way the factory can refuse or fail, each with its own exit code.

An error says what is wrong and where in one sentence; its hint is something a person can run or edit.
"""

from collections.abc import Sequence


class FactoryError(Exception):
    """Base of all errors that end a command with a message instead of a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class UsageError(FactoryError):
    """The command line or the site file asks for something that does not exist."""

    exit_code = 2


class CatalogError(FactoryError):
    """The catalog contradicts itself; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, hint: str = "") -> None:
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(
            f"catalog: {len(problems)} {noun}",
            hint=hint or "correct the catalog, then run: builder list",
            details="\n".join(problems),
        )
        self.problems = tuple(problems)


class MissingError(FactoryError):
    """A tool, a service or a credential that the command needs is not there."""

    exit_code = 3


class BuildError(FactoryError):
    """A layer or an image could not be made."""

    exit_code = 4


class CheckError(FactoryError):
    """The artifact exists and does not do what it must."""

    exit_code = 5


class PublishError(FactoryError):
    """The artifact could not be brought to its destination."""

    exit_code = 6


class IntegrityError(FactoryError):
    """Bytes are not the bytes that were locked."""

    exit_code = 7


class Interrupted(FactoryError):
    """SIGINT, SIGTERM or SIGHUP arrived; everything of this run has been removed."""

    exit_code = 130
