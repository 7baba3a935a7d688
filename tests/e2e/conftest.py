"""Rehearsals with real machines, each with a name and a folder of its own; nothing of them stays."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rehearsed import Program


@pytest.fixture(scope="session")
def program(home: Path) -> Program:
    return Program(home)


@pytest.fixture
def rehearsal_name(program: Program) -> Iterator[Callable[[], str]]:
    """Names of rehearsals that end with the test."""
    made: list[str] = []

    def new() -> str:
        made.append(f"t-{uuid.uuid4().hex[:8]}")
        return made[-1]

    yield new
    for name in made:
        program.call("down", "--name", name)


@pytest.fixture(scope="module")
def endpoint(program: Program) -> Iterator[str]:
    """A rehearsal for all tests of a module."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    yield program.up(name)
    program.call("down", "--name", name)
