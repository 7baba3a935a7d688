"""Tests of dnf version locks: locks follow the pins, and equal locks are not reported as a change."""

from collections.abc import Iterator

import pytest

from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

LOCK = "libfabric : Lock packages at their version"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pins = {"libfabric": "1.17.0-3", "rdma_core": "44.0-2", "kernel": "6.12.80-105.155.amzn2023.x86_64"}
    with serve(tmp_path_factory.mktemp("s"), pins) as served:
        yield served


@pytest.fixture(scope="module")
def plan(site: Site) -> Plan:
    request = RoleRequest(components=["libfabric"], system="amazon-2023", pins=site.pins)
    return overlay.plan_of(request, site)


@pytest.fixture(scope="module")
def machine(plan: Plan, site: Site) -> Iterator[Machine]:
    with open_machine(plan, site=site, label="locks") as opened:
        yield opened


def test_missing_or_different_lock_is_reported_as_a_change(machine: Machine, plan: Plan) -> None:
    first = machine.apply(plan)
    assert first.passed, first.failure
    assert LOCK in first.changed
    assert machine.apply(plan).changed == []
    locks = sorted(machine.shell("dnf --quiet versionlock list").splitlines())
    assert "libfabric-0:1.17.0-3.*" in locks
    machine.shell("sed -i /libfabric/d /etc/dnf/plugins/versionlock.list")
    assert machine.apply(plan).changed == [LOCK]
    machine.shell("sed -i 's/libfabric-0:1.17.0-3/libfabric-0:1.16.0-1/' /etc/dnf/plugins/versionlock.list")
    assert machine.apply(plan).changed == [LOCK]
    assert sorted(machine.shell("dnf --quiet versionlock list").splitlines()) == locks
