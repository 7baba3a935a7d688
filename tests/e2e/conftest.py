"""Fixtures that start rehearsals (simulated AWS accounts), build AMIs and remove the rehearsals."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Workspace
from builder.rehearsal import session
from builder.rehearsal.ec2.machine import MACHINES
from builder.rehearsal.session import Rehearsal
from tests.conftest import FirstWorkerOnly
from tests.support.ami_factory import AmiFactory, prepare
from tests.support.factory import Factory
from tests.support.rehearsal import EAST, Clients
from tests.support.rehearsed import Program


@pytest.fixture(scope="session")
def program(home: Path, first_worker_only: FirstWorkerOnly) -> Program:
    """The `builder` program; the engine already has the machine image for instances of rehearsals."""
    created = Program(home)

    def is_missing() -> bool:
        return not Engine().images(reference=MACHINES)

    if is_missing():
        with first_worker_only("machine", is_missing):
            created.up("first")
        created.call("down", "--name", "first")
    return created


@pytest.fixture
def rehearsal_name(program: Program) -> Iterator[Callable[[], str]]:
    """Function that returns a new rehearsal name; rehearsals with these names are stopped after the test."""
    names: list[str] = []

    def new() -> str:
        names.append(f"t-{uuid.uuid4().hex[:8]}")
        return names[-1]

    yield new
    for name in names:
        program.call("down", "--name", name)


@pytest.fixture(scope="module")
def aws(program: Program) -> Iterator[Clients]:
    """AWS clients of a rehearsal that all tests of a module share."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    program.up(name)
    yield program.aws(name)
    program.call("down", "--name", name)


@pytest.fixture(scope="package")
def rehearsal(tmp_path_factory: pytest.TempPathFactory, program: Program, root: Path) -> Iterator[Rehearsal]:
    """Rehearsed AWS account in which all AMI tests build AMIs."""
    first = prepare(Factory.create(tmp_path_factory.mktemp("first"), home=program.home, root=root), root)
    up = first.call("rehearse", "up")
    assert up.code == 0, up.stderr
    found = session.find(Workspace(home=program.home, out=first.out), "default")
    assert found
    yield found
    first.call("rehearse", "down")


@pytest.fixture
def ami_factory(rehearsal: Rehearsal, factory: Factory, root: Path) -> Iterator[AmiFactory]:
    """Factory with an AMI target and a rehearsal; the AMIs that a test builds are removed after the test."""
    folder = session.files_of(Workspace(home=factory.home, out=factory.out), "default")
    created = AmiFactory(prepare(factory, root), rehearsal, f"factory-rehearsal/{session.session_of(folder)}")
    created.before = created.account()
    yield created
    rehearsal.clear_disturbances()
    images = created.aws.ec2.describe_images(Owners=["self"])["Images"]
    for ami in {image["ImageId"] for image in images} - set(created.before[EAST]):
        created.factory.call("ami", "retire", ami, "--force", "--yes")
    factory.call("clean", "--yes")
