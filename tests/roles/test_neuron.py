"""Tests of the Neuron roles: release changes, refused packages and refused wheels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from builder.adapters.ansible.apply import Applied
from builder.app.role_plan import RoleRequest
from builder.model import Plan, Value
from tests.roles.machines import Machine, open_machine
from tests.standins import neuron_framework, overlay
from tests.standins.neuron_packages import REPOSITORY
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

PACKAGES = ("neuron_runtime", "neuron_collectives", "neuron_tools")
# Two releases with a common prefix: 2.33.1 and 2.33.10.
FIRST = {"neuron_runtime": "2.33.1", "neuron_collectives": "2.33.1", "neuron_tools": "2.31.1"}
SECOND = {"neuron_runtime": "2.33.10", "neuron_collectives": "2.33.10", "neuron_tools": "2.31.15"}


@dataclass
class Image:
    """Container to which tests apply several plans."""

    site: Site
    machine: Machine

    def plan(self, *components: str, pins: dict[str, str] = SECOND, **variables: Value) -> Plan:
        """Return a plan of these components without their requirements, which are already installed."""
        self.site.pins = pins
        self.site.requirements.clear()
        request = RoleRequest(components=components, kind="container", pins=pins, variables=variables)
        return replace(overlay.plan_of(request, self.site), components=components)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with serve(tmp_path_factory.mktemp("s"), SECOND) as site:
        # pip in the container uses only the index that the site has when the container starts.
        neuron_framework.build(site)
        plan = overlay.plan_of(RoleRequest(components=["packages"], kind="container"), site)
        with open_machine(plan, site=site, label="neuron") as machine:
            succeed(machine.apply(plan))
            yield Image(site=site, machine=machine)


def succeed(play: Applied) -> Applied:
    assert play.passed, play.failure
    return play


def message_of(play: Applied) -> str:
    assert play.failure is not None
    return play.failure.message + play.failure.details


@pytest.mark.parametrize(("first", "second"), [(FIRST, SECOND), (SECOND, FIRST)])
def test_replaces_held_packages_of_another_neuron_release(
    image: Image, first: dict[str, str], second: dict[str, str]
) -> None:
    succeed(image.machine.apply(image.plan(*PACKAGES, pins=first)))
    plan = image.plan(*PACKAGES, pins=second)
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []
    # The checks must distinguish 2.33.10 from 2.33.1.
    assert [line for line in image.machine.failures(image.plan(*PACKAGES, pins=first)) if "is_pinned" in line]


def test_refuses_packages_without_the_vendors_signature(image: Image) -> None:
    plan = image.plan("neuron_tools", pins={**SECOND, "neuron_tools": "2.31.99"})
    release = image.site.url_file(REPOSITORY) / "dists/bookworm/InRelease"
    signed = release.read_text(encoding="utf-8")
    release.write_text(signed.replace("Origin: Stand-in", "Origin: Changed"), encoding="utf-8")
    message = message_of(image.machine.apply(plan))
    release.write_text(signed, encoding="utf-8")
    assert "expected a repository signed by" in message


def test_refuses_placeholder_packages_and_missing_packages(image: Image) -> None:
    digest = "--hash=sha256:" + "0" * 64
    names = ("torch-neuronx", "neuronx_cc", "neuronx-distributed")
    lines: list[Value] = [f"{name}==1.0 {digest}" for name in names]
    message = message_of(
        image.machine.apply(image.plan("neuron_framework", neuron_framework_requirements=lines))
    )
    assert "missing none" in message
    assert "neuronx_cc==1.0" in message
    message = message_of(
        image.machine.apply(image.plan("neuron_framework", neuron_framework_requirements=[]))
    )
    assert "missing neuronx-cc, neuronx-distributed, torch-neuronx" in message
    assert "aws_neuronx_venv" not in image.machine.shell("ls /opt")


def test_refuses_a_wheel_with_another_checksum(image: Image) -> None:
    plan = image.plan("neuron_framework")
    lines = [line.replace("sha256:", "sha256:0000")[: len(line)] for line in image.site.requirements]
    other: list[Value] = list(lines)
    message = message_of(
        image.machine.apply(image.plan("neuron_framework", neuron_framework_requirements=other))
    )
    assert "DO NOT MATCH THE HASHES" in message
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []


def test_checks_find_an_installed_placeholder_package(image: Image) -> None:
    plan = image.plan("neuron_framework")
    succeed(image.machine.apply(plan))
    image.machine.shell("rm -r /opt/aws_neuronx_venv/lib/python3*/site-packages/torch_neuronx")
    assert [line for line in image.machine.failures(plan) if "packages_are_not_placeholders" in line]
