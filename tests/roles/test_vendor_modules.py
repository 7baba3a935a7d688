"""Kernel modules of EFA and Neuron on a machine: for the kernel of the image, or refused with the reason."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles import machines
from tests.standins import efa, native, neuron_driver, overlay
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

PINS = {"efa": "1.47.0", "neuron_driver": "2.29.0"}
COMPONENTS = ("efa", "neuron_driver")
BROKEN = native.MODULE + "#error of its own\n"


@dataclass
class Machine:
    site: Site
    made: machines.Machine
    kernel: str

    def plan(self, *components: str) -> Plan:
        """The plan of these components alone; the kernel is there already."""
        self.site.pins = PINS
        request = RoleRequest(components=["kernel", *components], pins=PINS)
        return replace(overlay.plan_of(request, self.site), components=components)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with serve(tmp_path_factory.mktemp("s"), PINS) as site:
        plan = overlay.plan_of(RoleRequest(components=["kernel", "packages"]), site)
        with machines.open_machine(plan, site=site, label="modules") as made:
            assert made.apply(plan).passed
            yield Machine(site=site, made=made, kernel=str(plan.capabilities["target_kernel"]))


def test_a_module_that_does_not_compile_says_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efa, "MODULE", BROKEN)
    monkeypatch.setattr(neuron_driver, "SOURCE", BROKEN)
    for component in COMPONENTS:
        plan = machine.plan(component)
        play = machine.made.apply(plan)
        assert play.failure is not None
        assert "#error of its own" in play.failure.message + play.failure.details
        assert machine.made.failures(plan) != []
    monkeypatch.undo()
    # A vendor does not publish two packages of one version; here the next one has the same.
    machine.made.shell("dpkg --purge --force-all efa efa-nv-peermem aws-neuronx-dkms")


def test_modules_are_for_the_kernel_of_the_image(machine: Machine) -> None:
    plan = machine.plan(*COMPONENTS)
    play = machine.made.apply(plan)
    assert play.passed, play.failure
    assert machine.made.failures(plan) == []
    assert machine.made.apply(plan).changed == []


def test_a_module_for_another_kernel_is_caught(machine: Machine) -> None:
    plan = machine.plan(*COMPONENTS)
    machine.made.shell(
        f"find /lib/modules/{machine.kernel}/updates -name '*.ko*' -delete; depmod {machine.kernel}"
    )
    failed = [line.partition(": ")[0] for line in machine.made.failures(plan)]
    assert "efa::test_module_is_for_the_kernel_of_the_image" in failed
    assert "neuron_driver::test_module_is_for_the_kernel_of_the_image" in failed
    play = machine.made.apply(plan)
    assert play.passed, play.failure
    assert machine.made.failures(plan) == []


def test_the_module_for_nvidia_goes_where_there_is_no_driver_of_nvidia(machine: Machine) -> None:
    plan = machine.plan("efa")
    assert machine.made.apply(plan).passed
    assert machine.made.shell(f"modinfo -k {machine.kernel} efa_nv_peermem 2>&1 || test $? = 1").endswith(
        "not found."
    )
    machine.made.shell("echo efa_nv_peermem > /etc/modules-load.d/efa_nv_peermem.conf")
    failed = machine.made.failures(plan)
    machine.made.shell("rm /etc/modules-load.d/efa_nv_peermem.conf")
    assert [line for line in failed if "peer_memory_module_goes_with_the_driver" in line]
