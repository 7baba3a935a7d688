"""The dialect of all TOML files: reads them, checks keys and types, collects problems and suggests names.

Knows no file and no key by name.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli

# Types of values, by the name that an error message gives them.
_TYPES: Mapping[str, Callable[[object], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a list of strings": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "a table of strings": lambda value: (
        isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    ),
    "a table": lambda value: isinstance(value, dict),
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a whole number, not negative": lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and value >= 0
    ),
    "a price": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "a list of tables": lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value),
    "a list of lists of strings": lambda value: (
        isinstance(value, list) and all(_TYPES["a list of strings"](v) for v in value)
    ),
}
TEXT, FLAG, LIST, STRINGS, TABLE, NUMBER, COUNT, PRICE, TABLES, LISTS = _TYPES

Table = Mapping[str, Any]
Shape = Mapping[str, tuple[str, bool]]  # key → (type, required)


class Problems:
    """Collects what is wrong, so that one run shows all of it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, file: str, key: str, message: str) -> None:
        self.found.append(f"{file}: {key}: {message}" if key else f"{file}: {message}")

    def unknown(self, file: str, key: str, noun: str, name: str, known: Iterable[str]) -> None:
        self.add(file, key, f"no {noun} '{name}'{did_you_mean(name, known)}")


# Words that facts and pins had before they were named after their component: good for a suggestion alone.
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
    """The end of a sentence that refuses `name`: the nearest known name, or all of them if they are few."""
    names = sorted(known)
    words = {old: new for old, new in RENAMED.items() if new in names} | {name: name for name in names}
    near = difflib.get_close_matches(name, words, n=1)
    if near:
        return f" (did you mean '{words[near[0]]}'?)"
    return f" (there is: {', '.join(names)})" if 0 < len(names) <= 8 else ""


def read_tables(folder: Path, group: str, shape: Shape, problems: Problems) -> dict[str, Table]:
    """The TOML files of one folder by name; a file with problems is empty."""
    return {
        path.stem: read_table(folder, f"{group}/{path.name}", shape, problems)
        for path in sorted((folder / group).glob("*.toml"))
    }


def read_table(folder: Path, file: str, shape: Shape, problems: Problems) -> Table:
    """One TOML file if it has that shape, else nothing but the problems it adds."""
    table = read_toml(folder, file, problems)
    return table if table is not None and fits(table, shape, file, "", problems) else {}


def read_toml(folder: Path, file: str, problems: Problems, *, called: str = "") -> Table | None:
    """One TOML file of any shape, or None; `called` is its name in problems where that is not `file`."""
    try:
        return tomli.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.add(called or file, "", "no such file")
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.add(called or file, "", f"not TOML: {error}")
    return None


def fits(table: Table, shape: Shape, file: str, prefix: str, problems: Problems) -> bool:
    """True if `table` has the keys and types of `shape`; adds a problem for each key that does not fit."""
    before = len(problems.found)
    for key, value in table.items():
        if key not in shape:
            problems.add(file, prefix + key, f"unknown key{did_you_mean(key, shape)}")
        elif not _TYPES[shape[key][0]](value):
            problems.add(file, prefix + key, f"must be {shape[key][0]}, not {value!r}")
    for key, (type_name, required) in shape.items():
        if required and key not in table:
            problems.add(file, prefix + key, f"missing ({type_name})")
    return len(problems.found) == before


def tuples(table: Table) -> dict[str, Any]:
    """The table with tuples for lists, as frozen values hold them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
