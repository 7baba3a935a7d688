"""Tests of the NVIDIA roles with the vendor's repository: version changes and compiler errors.

The tests use Ubuntu's package names on a Debian machine, since both systems install, hold and compile
packages in the same way.
"""

import dataclasses
from collections.abc import Iterator

import pytest

from builder import catalog
from builder.adapters.ansible.apply import Applied
from builder.app.role_plan import RoleRequest
from builder.model import Catalog, Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import nvidia_driver, overlay
from tests.standins.cuda_repository import publish
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

PINS = {
    "cuda": "13.0.2",
    "cudnn": "9.10.2.21",
    "dcgm": "4.7.0",
    "kernel": "6.1.0-50-amd64",
    "nvidia_driver": "580.159.03",
}
DRIVER = ("nvidia_driver", "nvidia_fabric_manager", "nvidia_imex", "nvidia_persistence")
LIST_NVIDIA = (
    "dpkg-query --show --showformat '${db:Status-Abbrev}${Package} ${Version}\\n' | grep '^[ih]i.*nvidia'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s"), dict(PINS)) as served:
        yield served


@pytest.fixture(scope="module")
def machine(site: Site) -> Iterator[Machine]:
    plan = overlay.plan_of(RoleRequest(components=["kernel", "packages"], pins=site.pins), site)
    with open_machine(plan, site=site, label="nvidia") as opened:
        play = opened.apply(plan)
        assert play.passed, play.failure
        yield opened


@pytest.fixture(autouse=True)
def ubuntu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Present the Debian machine as Ubuntu 24.04."""
    load = catalog.load

    def rename(*words: object, **named: object) -> Catalog:
        loaded = load(*words, **named)  # type: ignore[arg-type]
        system = loaded.systems["debian-12"]
        renamed = dataclasses.replace(system, distribution="ubuntu", release="24.04", codename="noble")
        return dataclasses.replace(loaded, systems={**loaded.systems, "debian-12": renamed})

    monkeypatch.setattr(catalog, "load", rename)


def plan_of(site: Site, *components: str, variables: dict[str, object] | None = None, **pins: str) -> Plan:
    """Return a plan of these components; the kernel of Debian is already installed."""
    site.pins = {**PINS, **pins}
    plan = overlay.plan_of(
        RoleRequest(components=components, pins=site.pins, variables=variables or {}), site
    )
    return dataclasses.replace(plan, components=tuple(name for name in plan.components if name in components))


def message_of(play: Applied) -> str:
    assert play.failure is not None
    return play.failure.message + play.failure.details


def test_installs_all_components_in_one_version(machine: Machine, site: Site) -> None:
    plan = plan_of(site, *DRIVER, "cuda", "cudnn", "dcgm")
    play = machine.apply(plan)
    assert play.passed, play.failure
    assert machine.failures(plan) == []
    assert machine.apply(plan).changed == []


def test_another_driver_version_replaces_all_packages(machine: Machine, site: Site) -> None:
    plan = plan_of(site, *DRIVER, nvidia_driver="595.91.07")
    play = machine.apply(plan)
    assert play.passed, play.failure
    assert machine.failures(plan) == []
    assert "580.159.03" not in machine.shell(LIST_NVIDIA)
    back = plan_of(site, *DRIVER)
    assert machine.apply(back).passed
    assert machine.failures(back) == []


def test_replaces_the_open_with_the_proprietary_modules(machine: Machine, site: Site) -> None:
    flavor = {
        "nvidia_driver_flavor": "proprietary",
        "nvidia_driver_parameters": {"NVreg_EnableGpuFirmware": 0},
    }
    plan = plan_of(site, "nvidia_driver", variables=flavor)
    assert machine.apply(plan).passed
    assert machine.failures(plan) == []
    assert machine.apply(plan_of(site, "nvidia_driver")).passed


def test_installs_several_toolkits_side_by_side(machine: Machine, site: Site) -> None:
    plan = plan_of(site, "cuda", variables={"cuda_further": ["12.8.1"]})
    assert machine.apply(plan).passed
    assert machine.failures(plan) == []
    other = plan_of(site, "cuda", cuda="12.8.1")
    assert machine.apply(other).passed
    assert machine.failures(other) == []


def test_a_compiler_error_is_in_the_error_message(machine: Machine, site: Site) -> None:
    plan = plan_of(site, "nvidia_driver", nvidia_driver="580.173.02")
    flaw = "int broken(void) { return no_such_thing; }\n"
    publish(site, debs=nvidia_driver.ubuntu(site, "580.173.02", flaw=flaw))
    play = machine.apply(plan)
    assert not play.passed
    assert "compiling nvidia 580.173.02 for kernel 6.1.0-50-amd64 failed" in message_of(play)
    assert "no_such_thing" in message_of(play)
    repaired = plan_of(site, "nvidia_driver")
    assert machine.apply(repaired).passed
    assert machine.failures(repaired) == []


def test_missing_kernel_headers_are_in_the_message(machine: Machine, site: Site) -> None:
    play = machine.apply(plan_of(site, "nvidia_driver", kernel="6.1.0-1-amd64"))
    assert not play.passed
    assert "no headers of kernel 6.1.0-1-amd64" in message_of(play)
