"""What happens to any role: the play is killed half-way, the disk is full, the next version comes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from builder.adapters.ansible.playbook import MOUNT
from builder.model import Plan
from tests.roles import plans
from tests.roles.bench import Bench, open_bench
from tests.roles.plans import Wanted
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

SMALL = "/var/cache/factory-small"
COMPONENTS = ("aws_cli", "enroot", "libfabric", "limits")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s"), plans.standin_pins()) as made:
        yield made


@pytest.fixture(scope="module")
def plan(site: Site) -> Plan:
    return plans.make(Wanted(components=COMPONENTS, pins=plans.standin_pins()), site)


@pytest.fixture(scope="module")
def bench(plan: Plan, site: Site) -> Iterator[Bench]:
    tmpfs = {SMALL: "size=256k"}
    with open_bench(plan, site=site, say=print, label="faults", tmpfs=tmpfs) as opened:
        yield opened


def failed(bench: Bench, plan: Plan) -> set[str]:
    """Components of which some check fails."""
    return {check.component for check in bench.check(plan) if check.outcome == "failed"}


@pytest.mark.parametrize(
    "task",
    [
        "aws_cli : Run the installer",
        "libfabric : Install packages",
        "limits : Write the limits",
    ],
)
def test_a_play_that_was_killed_is_applied_again(bench: Bench, plan: Plan, task: str) -> None:
    bench.shell("rm -rf /usr/local/aws-cli /usr/local/bin/aws* /etc/security/limits.d/*")
    bench.shell("dpkg --purge --force-depends libfabric1")

    def kill(where: str) -> None:
        if where == task:
            bench.shell("pkill -KILL -f '[r]un/launch.py|[a]nsible-tmp-|^[a]pt-get|[d]pkg'")

    cut_short = bench.apply(plan, watch=kill)
    assert not cut_short.passed
    assert task.partition(" ")[0] in failed(bench, plan)
    again = bench.apply(plan)
    assert again.passed, again.failure
    assert bench.apply(plan).changed == []
    assert failed(bench, plan) == set()


def test_nothing_of_the_work_is_left_when_all_is_well(bench: Bench, plan: Plan) -> None:
    assert bench.apply(plan).passed
    left = bench.shell(
        "find /var/cache /etc/apt /tmp /opt /usr/src -name 'factory*' -not -path '/var/cache/factory-small'"
    )
    assert left == ""


def test_what_a_killed_play_left_is_gone_after_the_next(bench: Bench, plan: Plan) -> None:
    bench.shell(
        "mkdir -p /var/cache/factory-limits/deep && touch /etc/apt/sources.list.d/factory-vendor.sources"
    )
    assert bench.apply(replace(plan, components=("limits",))).passed
    assert (
        bench.shell("ls -d /var/cache/factory-limits /etc/apt/sources.list.d/factory-* 2>/dev/null || true")
        == ""
    )


@pytest.mark.parametrize("size", [200_000, 1_000_000])
def test_a_download_that_does_not_fit_is_refused(bench: Bench, plan: Plan, site: Site, size: int) -> None:
    url = "https://vendor.example/large"
    path = site.write(url, b"x" * size)
    bench.shell(f"head -c 100000 /dev/zero > {SMALL}/other")
    of = {"url": url, "sha256": plans.sum_of(path)}
    task = {
        "ansible.builtin.include_tasks": f"{MOUNT}/ansible/tasks/download.yml",
        "vars": {"download_of": of, "download_to": f"{SMALL}/large"},
    }
    play = bench.apply(plan, tasks=[task])
    assert play.failure is not None
    assert f"has {size} bytes, and the disk has room for " in play.failure["message"]
    assert bench.shell(f"ls -A {SMALL}") == "other"
