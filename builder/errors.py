"""Error classes of the factory, each with its own exit code.

A message names the failure, the value and the file or key; a hint is a command to run or a file to edit.
No text of an error contains the password of a URL.
"""

import errno
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_MOST_PROBLEMS = 50  # that an error lists
_LOGIN = re.compile(r"""\b((?:https?|ftp|socks\w{0,2})://)[^\s/"'<>]*@""", re.IGNORECASE)


def without_logins(text: str) -> str:
    """Replace the user names and passwords in the URLs of a text."""
    return _LOGIN.sub(r"\1***@", text) if "@" in text else text


class FactoryError(Exception):
    """Base class of errors that are printed as a message without a traceback."""

    exit_code = 1
    result: object = None  # what `--json` prints besides the error

    def __init__(self, message: str, *, hint: str = "", details: str = "") -> None:
        self.message = without_logins(message)
        self.hint = without_logins(hint)
        self.details = without_logins(details)
        super().__init__(self.message)


class UsageError(FactoryError):
    """The command line or the site file contains an unknown name or an invalid value."""

    exit_code = 2


class CatalogError(FactoryError):
    """The catalog is invalid; lists every problem found."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, hint: str = "") -> None:
        noun = "problem" if len(problems) == 1 else "problems"
        cut = len(problems) - _MOST_PROBLEMS
        more = [f"… and {cut} more"] if cut > 0 else []
        super().__init__(
            f"catalog: {len(problems)} {noun}",
            hint=hint or "correct the catalog, then run: builder list",
            details="\n".join([*problems[:_MOST_PROBLEMS], *more]),
        )
        self.problems = tuple(problems)


class MissingError(FactoryError):
    """A required tool, service or credential is missing."""

    exit_code = 3


class BuildError(FactoryError):
    """Building a layer or an image failed."""

    exit_code = 4


class CheckError(FactoryError):
    """An artifact failed its checks."""

    exit_code = 5


class PublishError(FactoryError):
    """Publishing an artifact failed."""

    exit_code = 6


class IntegrityError(FactoryError):
    """A download or a lock entry does not match the expected digest."""

    exit_code = 7


class IncompatibleError(FactoryError):
    """The compatibility rules refuse a combination of versions."""

    exit_code = 8


class Defect(FactoryError):
    """An exception that no other class covers: a defect of the builder itself."""

    exit_code = 70


class Interrupted(FactoryError):
    """The run was interrupted by SIGINT, SIGTERM or SIGHUP."""

    exit_code = 130


def of_system(error: OSError, kind: type[FactoryError]) -> FactoryError:
    """Convert an OSError to the error class of the step in which it happened."""
    # None for errors of sockets and pipes. The second path of a rename is the one that the user named.
    path = str(error.filename2 or error.filename or "")
    reason = error.strerror or str(error) or type(error).__name__
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = f"ls -ld {shlex.quote(path)}" if path else "builder doctor"
    if is_full:
        hint = f"free some space: df -h {path}".rstrip() + "; builder clean"
    return kind(": ".join(filter(None, (path, reason))), hint=hint)


@contextmanager
def system_errors(kind: type[FactoryError]) -> Iterator[None]:
    """Re-raise an OSError of the block as an error of class `kind`."""
    try:
        yield
    except OSError as error:
        raise of_system(error, kind) from error


@contextmanager
def with_result(result: object) -> Iterator[None]:
    """Add a result to a FactoryError of the block, for the output of `--json`."""
    try:
        yield
    except FactoryError as error:
        error.result = result
        raise


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Add the path to an OSError of the block that lacks a path, as errors of write and fsync do."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
