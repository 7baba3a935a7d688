"""Reports of defects of the builder: one line for the terminal, the traceback in a file."""

import os
import sys
import traceback
from pathlib import Path

from builder import __version__
from builder.errors import Defect, without_logins

_PACKAGE = Path(__file__).resolve().parents[1]


def report(error: Exception) -> Defect:
    """Write the traceback to a file that only this user can read; return the error for the terminal."""
    import tempfile

    words = " ".join(str(error).split())[:200]
    text = f"a defect of builder: {type(error).__name__}: {words} ({_origin(error)})"
    lines = [f"builder {__version__}, Python {sys.version.split()[0]}\n", *traceback.format_exception(error)]
    try:
        descriptor, path = tempfile.mkstemp(prefix="builder-defect-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_logins("".join(lines)))
    except OSError as reason:
        return Defect(f"{text}; its traceback cannot be written: {reason.strerror}")
    return Defect(f"{text}; please report it with its traceback: {path}")


def _origin(error: Exception) -> str:
    """Return file and line of the innermost frame in this package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents] or frames
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
