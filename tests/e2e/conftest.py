"""Rehearsals with real machines, and the factory that makes AMIs in one; nothing of them stays."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.adapters.host.workspace import Workspace
from builder.rehearsal import session
from builder.rehearsal.session import Rehearsal
from tests.support.ami_factory import AmiFactory, prepare
from tests.support.factory import Factory
from tests.support.rehearsal import EAST
from tests.support.rehearsed import Program


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


@pytest.fixture(scope="package")
def rehearsal(tmp_path_factory: pytest.TempPathFactory, home: Path, root: Path) -> Iterator[Rehearsal]:
    """The rehearsal that all tests of AMIs build in."""
    made = prepare(Factory.create(tmp_path_factory.mktemp("first"), home=home, root=root), root)
    up = made.call("rehearse", "up")
    assert up.code == 0, up.stderr
    found = session.find(Workspace(home=home, out=made.out), "default")
    assert found
    yield found
    made.call("rehearse", "down")


@pytest.fixture
def ami_factory(factory: Factory, rehearsal: Rehearsal, root: Path) -> Iterator[AmiFactory]:
    folder = session.files_of(Workspace(home=factory.home, out=factory.out), "default")
    made = AmiFactory(prepare(factory, root), rehearsal, f"factory-rehearsal/{session.session_of(folder)}")
    made.before = made.account()
    yield made
    rehearsal.calm()
    images = made.aws.ec2.describe_images(Owners=["self"])["Images"]
    for ami in {one["ImageId"] for one in images} - set(made.before[EAST]):
        made.factory.call("ami", "retire", ami, "--force", "--yes")
    factory.call("clean", "--yes")
