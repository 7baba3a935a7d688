"""Read TOML files, check their keys and types, collect problems and suggest names.

Does not know any specific file or key.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from builder.parsed import ParsedFiles
from builder.patterns import unsafe_texts
from builder.reading import parse, read_text, shortened

# Type name in error messages → function that checks whether a value has the type.
_TYPES: Mapping[str, Callable[[object], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a list of strings": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "a table of strings": lambda value: (
        isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    ),
    "a table": lambda value: isinstance(value, dict),
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a whole number of at least 0": lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and value >= 0
    ),
    "a price": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "a list of tables": lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value),
    "a list of lists of strings": lambda value: (
        isinstance(value, list) and all(_TYPES["a list of strings"](v) for v in value)
    ),
}
TEXT, FLAG, LIST, STRINGS, TABLE, NUMBER, COUNT, PRICE, TABLES, LISTS = _TYPES

_LONGEST_KEY = 200  # characters of a key in a message

Table = Mapping[str, Any]
Shape = Mapping[str, tuple[str, bool]]  # key → (type, required)


class Problems:
    """Collects the problems of all files, so that one run reports them all; `parsed` caches valid files."""

    def __init__(self, parsed: ParsedFiles | None = None) -> None:
        self.by_file: dict[str, list[str]] = {}
        self.parsed = parsed or ParsedFiles()

    @property
    def found(self) -> list[str]:
        return [problem for problems in self.by_file.values() for problem in problems]

    def add(self, file: str, key: str, message: str) -> None:
        shown = key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…"
        text = f"{file}: {shown}: {message}" if key else f"{file}: {message}"
        self.by_file.setdefault(file, []).append(text)

    def unknown(self, file: str, key: str, noun: str, name: str, known: Iterable[str]) -> None:
        self.add(file, key, f"no {noun} '{name}'{did_you_mean(name, known)}")


# Former name of a fact or pin → current name; used for suggestions only.
RENAMED: Mapping[str, str] = {
    "container_toolkit": "nvidia_container_toolkit",
    "driver": "nvidia_driver",
    "driver_below_bundled": "nvidia_driver_below_bundled",
    "driver_branch": "nvidia_driver_branch",
    "driver_flavor": "nvidia_driver_flavor",
    "driver_rebuilt_after_efa": "nvidia_driver_rebuilt_after_efa",
    "efa_installer": "efa",
    "fabric_manager": "nvidia_fabric_manager",
    "fm_started_in_build": "nvidia_fabric_manager_started_in_build",
    "imex": "nvidia_imex",
    "k8s": "kubernetes",
    "neuron_dkms": "neuron_driver",
    "neuron_dkms_in_container": "neuron_driver_in_container",
    "nv_peermem": "efa_nv_peermem",
    "nxd": "uses_nxd",
    "nxdt": "uses_nxd_training",
    "nxdt_version": "nxd_training",
    "ofi_build_libfabric_major_gt_runtime": "aws_ofi_nccl_libfabric_major_gt_runtime",
    "ofi_configure": "aws_ofi_nccl_configure",
    "ofi_custom_build": "aws_ofi_nccl_custom_build",
    "ofi_nccl": "aws_ofi_nccl",
    "pcluster_version": "parallelcluster",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suffix for an error message: the closest known name, or all known names if there are few."""
    names = sorted(known)
    words = {old: new for old, new in RENAMED.items() if new in names} | {name: name for name in names}
    closest = difflib.get_close_matches(name, words, n=1) or difflib.get_close_matches(
        name.lower(), words, n=1
    )
    if closest:
        return f" (did you mean '{words[closest[0]]}'?)"
    return f" (available: {', '.join(names)})" if 0 < len(names) <= 8 else ""


def read_tables(folder: Path, group: str, shape: Shape, problems: Problems) -> dict[str, Table]:
    """Return the TOML files of a folder by name; the table of an invalid file is empty."""
    return {
        path.stem: read_table(folder, f"{group}/{path.name}", shape, problems)
        for path in sorted((folder / group).glob("*.toml"))
    }


def read_table(folder: Path, file: str, shape: Shape, problems: Problems) -> Table:
    """Return a TOML file that matches `shape`; otherwise add its problems and return an empty table."""
    table = read_toml(folder, file, problems)
    return table if table is not None and fits(table, shape, file, "", problems) else {}


def read_toml(folder: Path, file: str, problems: Problems) -> Table | None:
    """Return a parsed TOML file of the catalog; None if it is missing or invalid."""
    return problems.parsed.table(folder / file, lambda: _read_toml(folder, file, problems))


def _read_toml(folder: Path, file: str, problems: Problems) -> Table | None:
    if (folder / file).is_symlink():
        problems.add(file, "", "is a symbolic link; the catalog may hold files only")
        return None
    try:
        text = read_text(folder / file)
    except FileNotFoundError:
        problems.add(file, "", "no such file")
        return None
    except ValueError as error:
        problems.add(file, "", str(error))
        return None
    return parse_toml(text, file, problems)


def parse_toml(text: str, file: str, problems: Problems) -> Table | None:
    """Return the table of a TOML document; None if it is invalid."""
    try:
        import tomli

        table = parse(text, tomli.loads)
    except ValueError as error:
        problems.add(file, "", f"not TOML: {_with_line(error, text)}")
        return None
    unsafe = list(unsafe_texts(table))
    for key, reason in unsafe:
        problems.add(file, key, reason)
    return None if unsafe else table


def _with_line(error: ValueError, text: str) -> str:
    """Return the message of tomli, with the number of the last line if the document ends too early."""
    return str(error).replace(
        "at end of document", f"at the end of the document, line {text.count(chr(10)) + 1}"
    )


def fits(table: Table, shape: Shape, file: str, prefix: str, problems: Problems) -> bool:
    """Add a problem for each key of `table` that violates `shape`; return True if there is none."""
    before = len(problems.found)
    for key, value in table.items():
        if key not in shape:
            problems.add(file, prefix + key, f"unknown key{did_you_mean(key, shape)}")
        elif not _TYPES[shape[key][0]](value):
            problems.add(file, prefix + key, f"must be {shape[key][0]}, not {shortened(value)}")
    for key, (type_name, required) in shape.items():
        if required and key not in table:
            problems.add(file, prefix + key, f"missing ({type_name})")
    return len(problems.found) == before


def tuples(table: Table) -> dict[str, Any]:
    """Return the table with each list converted to a tuple."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
