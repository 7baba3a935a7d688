"""A pytest plugin for checks: the fixture `expected`, and the one way to skip a check.

`expected` holds what the plan promises (versions, variables, capabilities). A check that needs something
that a container or a machine may lack says so with `@pytest.mark.needs("gpu")`.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

VARIABLE = "BUILDER_EXPECTED"
SKIP_PREFIX = "no capability "


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the plan of an artifact promises."""

    versions: Mapping[str, str]
    variables: Mapping[str, object]
    capabilities: Mapping[str, object]
    components: tuple[str, ...] = ()


def pytest_configure(config: pytest.Config) -> None:
    # Where the package `checks` lies, which check files share.
    sys.path.append(str(config.rootpath / "ansible"))
    config.addinivalue_line("markers", "needs(*capabilities): skip where a declared capability is absent")


def _load() -> Expected:
    path = os.environ.get(VARIABLE)
    if not path:
        raise pytest.UsageError(f"{VARIABLE} names no file; run checks with: builder check REF")
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    return Expected(**{**table, "components": tuple(table.get("components", ()))})


@pytest.fixture(scope="module")
def expected(request: pytest.FixtureRequest) -> Expected:
    loaded = _load()
    if "target_kernel" in loaded.capabilities:
        return loaded
    # The stack names a series: an image boots its one kernel, which has to be of it.
    kernel = request.getfixturevalue("host").check_output("uname --kernel-release")
    return dataclasses.replace(loaded, capabilities={**loaded.capabilities, "target_kernel": kernel})


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for mark in item.iter_markers("needs") for name in mark.args]
    if needed:
        capabilities = _load().capabilities
        for name in needed:
            if not capabilities.get(name):
                pytest.skip(f"{SKIP_PREFIX}{name}")
