"""Pytest plugin for checks: the fixture `expected`, and `needs`, the only marker that may skip a check.

`expected` has the versions, variables and capabilities of the plan. A check that needs a capability that a
container or a machine may lack is marked, for example `@pytest.mark.needs("gpu")`.
"""

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

VARIABLE = "BUILDER_EXPECTED"
SKIP_PREFIX = "needs the capability "
_MEMORY, _FILE = 4 << 30, 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """Versions, variables and capabilities of the plan of an artifact."""

    versions: Mapping[str, str]
    variables: Mapping[str, object]
    capabilities: Mapping[str, object]
    components: tuple[str, ...] = ()


def pytest_configure(config: pytest.Config) -> None:
    _limit_resources()
    sys.dont_write_bytecode = True  # check files lie in the folders of roles, which the user edits
    # Check files import the package `checks` from this folder.
    sys.path.append(str(config.rootpath / "ansible"))
    config.addinivalue_line("markers", "needs(*capabilities): skip if a declared capability is absent")


def _limit_resources() -> None:
    """Limit memory and files of this process, because a hostile image can print without end."""
    for kind, limit in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        _, highest = resource.getrlimit(kind)
        bound = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
        resource.setrlimit(kind, (bound, bound))


def _load() -> Expected:
    path = os.environ.get(VARIABLE)
    if not path:
        raise pytest.UsageError(f"{VARIABLE} is not set; run checks with: builder check REF")
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    return Expected(**{**table, "components": tuple(table.get("components", ()))})


@pytest.fixture(scope="module")
def expected(request: pytest.FixtureRequest) -> Expected:
    loaded = _load()
    if "target_kernel" in loaded.capabilities:
        return loaded
    # The stack pins only a kernel series: expect the kernel that the image has booted.
    kernel = request.getfixturevalue("host").check_output("uname --kernel-release")
    return dataclasses.replace(loaded, capabilities={**loaded.capabilities, "target_kernel": kernel})


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for mark in item.iter_markers("needs") for name in mark.args]
    if needed:
        capabilities = _load().capabilities
        for name in needed:
            if not capabilities.get(name):
                pytest.skip(f"{SKIP_PREFIX}{name}")
