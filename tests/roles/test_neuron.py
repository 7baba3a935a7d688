"""Neuron from one release to another, and what must not get in: packages and wheels of others."""

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
# Two releases whose numbers begin alike.
FIRST = {"neuron_runtime": "2.33.1", "neuron_collectives": "2.33.1", "neuron_tools": "2.31.1"}
SECOND = {"neuron_runtime": "2.33.10", "neuron_collectives": "2.33.10", "neuron_tools": "2.31.15"}


@dataclass
class Image:
    """One container to which one plan after the other is applied."""

    site: Site
    machine: Machine

    def plan(self, *components: str, pins: dict[str, str] = SECOND, **variables: Value) -> Plan:
        """The plan of these components alone; what they require is in the container already."""
        self.site.pins = pins
        self.site.requirements.clear()
        request = RoleRequest(components=components, kind="container", pins=pins, variables=variables)
        return replace(overlay.plan_of(request, self.site), components=components)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with serve(tmp_path_factory.mktemp("s"), SECOND) as site:
        # What the site has as its index when the container starts is what pip in it asks, and nothing else.
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
def test_another_release_takes_the_place_of_a_held_one(
    image: Image, first: dict[str, str], second: dict[str, str]
) -> None:
    succeed(image.machine.apply(image.plan(*PACKAGES, pins=first)))
    plan = image.plan(*PACKAGES, pins=second)
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []
    # A check that takes 2.33.10 for 2.33.1 would be none.
    assert [line for line in image.machine.failures(image.plan(*PACKAGES, pins=first)) if "is_pinned" in line]


def test_packages_that_the_vendor_did_not_sign_are_refused(image: Image) -> None:
    plan = image.plan("neuron_tools", pins={**SECOND, "neuron_tools": "2.31.99"})
    release = image.site.url_file(REPOSITORY) / "dists/bookworm/InRelease"
    signed = release.read_text(encoding="utf-8")
    release.write_text(signed.replace("Origin: Stand-in", "Origin: Somebody"), encoding="utf-8")
    said = message_of(image.machine.apply(plan))
    release.write_text(signed, encoding="utf-8")
    assert "expected a repository signed by" in said


def test_placeholders_of_the_python_index_are_refused(image: Image) -> None:
    digest = "--hash=sha256:" + "0" * 64
    names = ("torch-neuronx", "neuronx_cc", "neuronx-distributed")
    lines: list[Value] = [f"{name}==1.0 {digest}" for name in names]
    said = message_of(
        image.machine.apply(image.plan("neuron_framework", neuron_framework_requirements=lines))
    )
    assert "missing none" in said
    assert "neuronx_cc==1.0" in said
    said = message_of(image.machine.apply(image.plan("neuron_framework", neuron_framework_requirements=[])))
    assert "missing neuronx-cc, neuronx-distributed, torch-neuronx" in said
    assert "aws_neuronx_venv" not in image.machine.shell("ls /opt")


def test_a_wheel_that_is_not_the_locked_one_is_refused(image: Image) -> None:
    plan = image.plan("neuron_framework")
    lines = [line.replace("sha256:", "sha256:0000")[: len(line)] for line in image.site.requirements]
    other: list[Value] = list(lines)
    said = message_of(
        image.machine.apply(image.plan("neuron_framework", neuron_framework_requirements=other))
    )
    assert "DO NOT MATCH THE HASHES" in said
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []


def test_a_placeholder_that_got_in_is_caught(image: Image) -> None:
    plan = image.plan("neuron_framework")
    succeed(image.machine.apply(plan))
    image.machine.shell("rm -r /opt/aws_neuronx_venv/lib/python3*/site-packages/torch_neuronx")
    assert [line for line in image.machine.failures(plan) if "nothing_of_it_is_a_placeholder" in line]
