"""Version locks of dnf: they follow the pinned version, and only a real difference counts as a change."""

from collections.abc import Iterator

import pytest

from builder.model import Plan
from tests.roles import plans
from tests.roles.bench import Bench, open_bench
from tests.roles.plans import Wanted
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

LOCK = "libfabric : Lock packages at their version"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pins = {"libfabric": "1.17.0-3", "rdma_core": "44.0-2", "kernel": "6.12.80-105.155.amzn2023.x86_64"}
    with serve(tmp_path_factory.mktemp("s"), pins) as made:
        yield made


@pytest.fixture(scope="module")
def plan(site: Site) -> Plan:
    wanted = Wanted(components=["libfabric"], system="amazon-2023", pins=site.pins)
    return plans.make(wanted, site)


@pytest.fixture(scope="module")
def bench(plan: Plan, site: Site) -> Iterator[Bench]:
    with open_bench(plan, site=site, say=print, label="locks") as opened:
        yield opened


def test_a_lock_that_is_missing_or_different_is_a_change(bench: Bench, plan: Plan) -> None:
    first = bench.apply(plan)
    assert first.passed, first.failure
    assert LOCK in first.changed
    assert bench.apply(plan).changed == []
    locks = sorted(bench.shell("dnf --quiet versionlock list").splitlines())
    assert "libfabric-0:1.17.0-3.*" in locks
    bench.shell("sed -i /libfabric/d /etc/dnf/plugins/versionlock.list")
    assert bench.apply(plan).changed == [LOCK]
    bench.shell("sed -i 's/libfabric-0:1.17.0-3/libfabric-0:1.16.0-1/' /etc/dnf/plugins/versionlock.list")
    assert bench.apply(plan).changed == [LOCK]
    assert sorted(bench.shell("dnf --quiet versionlock list").splitlines()) == locks
