"""Read pip's configuration as pip does, from its files and variables, without starting pip.

A start of pip takes longer than most commands of the builder that need its index or its certificates.
"""

import configparser
import locale
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.errors import MissingError

# Sections that `pip install` and `pip download` read; a later section overrides an earlier section.
_SECTIONS = ("global", "install")
_NOT_SETTINGS = ("version", "help")


def read_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return pip's settings by name, such as `index-url`; variables override files.

    Raises MissingError for a file that pip would refuse.
    """
    sections: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for path in _files(environment):
        parsed = _parse(path)
        for section in _SECTIONS:
            if parsed.has_section(section):
                sections[section] |= {_normalized(name): value for name, value in parsed.items(section)}
    variables = {
        _normalized(name.removeprefix("PIP_")): value
        for name, value in environment.items()
        if name.startswith("PIP_") and name.removeprefix("PIP_").lower() not in _NOT_SETTINGS
    }
    return {**sections["global"], **sections["install"], **variables}


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the existing files of the system, the user, the virtual environment, and PIP_CONFIG_FILE."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    home = Path(environment.get("HOME") or Path.home())
    system = environment.get("XDG_CONFIG_DIRS", "").strip() or "/etc/xdg"
    user = environment.get("XDG_CONFIG_HOME", "").strip() or home / ".config"
    found = [*(Path(folder) / "pip" for folder in system.split(os.pathsep)), Path("/etc")]
    if not (named and Path(named).exists()):
        found += [home / ".pip", Path(user) / "pip"]
    paths = [
        *(folder / "pip.conf" for folder in (*found, Path(sys.prefix))),
        *([Path(named)] if named else []),
    ]
    yield from (path for path in paths if path.exists())


def _parse(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding=locale.getpreferredencoding(do_setlocale=False)))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise MissingError(f"pip's configuration {path}: {reason}", hint="pip config debug") from error
    return parser


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")
