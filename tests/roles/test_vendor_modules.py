"""Tests of the EFA and Neuron kernel modules on a machine: built for the image's kernel or a clear error."""

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
BROKEN = native.MODULE + "#error injected by the test\n"


@dataclass
class Machine:
    site: Site
    opened: machines.Machine
    kernel: str

    def plan(self, *components: str) -> Plan:
        """Return a plan of these components without `kernel`, which is already installed."""
        self.site.pins = PINS
        request = RoleRequest(components=["kernel", *components], pins=PINS)
        return replace(overlay.plan_of(request, self.site), components=components)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with serve(tmp_path_factory.mktemp("s"), PINS) as site:
        plan = overlay.plan_of(RoleRequest(components=["kernel", "packages"]), site)
        with machines.open_machine(plan, site=site, label="modules") as opened:
            assert opened.apply(plan).passed
            yield Machine(site=site, opened=opened, kernel=str(plan.capabilities["target_kernel"]))


def test_a_compiler_error_is_in_the_error_message(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efa, "MODULE", BROKEN)
    monkeypatch.setattr(neuron_driver, "SOURCE", BROKEN)
    # A half-configured package of EFA makes every later installation fail, so EFA comes last.
    for component in ("neuron_driver", "efa"):
        plan = machine.plan(component)
        play = machine.opened.apply(plan)
        assert play.failure is not None
        assert "#error injected by the test" in play.failure.message + play.failure.details
        assert machine.opened.failures(plan) != []
    monkeypatch.undo()
    # The role `efa` removes half-configured EFA packages. The Neuron package must be purged: the repaired
    # package has the same version.
    machine.opened.shell("dpkg --purge --force-all aws-neuronx-dkms")


def test_efa_and_neuron_modules_are_built_for_the_kernel_of_the_image(machine: Machine) -> None:
    plan = machine.plan(*COMPONENTS)
    play = machine.opened.apply(plan)
    assert play.passed, play.failure
    assert machine.opened.failures(plan) == []
    assert machine.opened.apply(plan).changed == []


def test_checks_find_missing_kernel_modules(machine: Machine) -> None:
    plan = machine.plan(*COMPONENTS)
    machine.opened.shell(
        f"find /lib/modules/{machine.kernel}/updates -name '*.ko*' -delete; depmod {machine.kernel}"
    )
    failed = [line.partition(": ")[0] for line in machine.opened.failures(plan)]
    assert "efa::test_module_matches_the_kernel" in failed
    assert "neuron_driver::test_module_matches_the_kernel" in failed
    play = machine.opened.apply(plan)
    assert play.passed, play.failure
    assert machine.opened.failures(plan) == []


def test_removes_the_peer_memory_module_without_the_nvidia_driver(machine: Machine) -> None:
    plan = machine.plan("efa")
    assert machine.opened.apply(plan).passed
    assert machine.opened.shell(f"modinfo -k {machine.kernel} efa_nv_peermem 2>&1 || test $? = 1").endswith(
        "not found."
    )
    machine.opened.shell("echo efa_nv_peermem > /etc/modules-load.d/efa_nv_peermem.conf")
    failed = machine.opened.failures(plan)
    machine.opened.shell("rm /etc/modules-load.d/efa_nv_peermem.conf")
    assert [line for line in failed if "peer_memory_module_requires_the_nvidia_driver" in line]


def test_keeps_the_peer_memory_module_with_debians_nvidia_driver(machine: Machine) -> None:
    """Debian's nvidia module has another name; the module build leaves files in the driver sources."""
    plan = machine.plan("efa")
    folder, sources = f"/lib/modules/{machine.kernel}/updates", "/usr/src/nvidia-current-open-535.261.03"
    driver = f"{folder}/nvidia-current-open.ko"
    machine.opened.shell(
        f"mkdir -p {sources} {folder}; echo source > {sources}/nvidia.c;"
        f" touch -d 2024-01-01 {sources}/nvidia.c; touch -d 2024-01-01 {sources}; touch {driver};"
        " rm /opt/amazon/efa_installed_packages; dpkg --purge --force-depends efa efa-nv-peermem"
    )
    play = machine.opened.apply(plan)
    assert play.passed, play.failure
    assert machine.opened.failures(plan) == []
    assert (
        machine.opened.shell("dpkg-query --show --showformat '${db:Status-Status}' efa-nv-peermem")
        == "installed"
    )
    assert machine.opened.shell(f"find {sources} -type f -o -type l") == f"{sources}/nvidia.c"
    machine.opened.shell(f"rm -r {sources} {driver}")
