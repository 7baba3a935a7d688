"""Tests of roles under faults: a killed play, leftovers of a killed play, a full disk."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from builder.adapters.ansible.playbook import MOUNT
from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

SMALL = "/var/cache/factory-small"
COMPONENTS = ("aws_cli", "enroot", "libfabric", "limits")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s"), overlay.standin_pins()) as served:
        yield served


@pytest.fixture(scope="module")
def plan(site: Site) -> Plan:
    return overlay.plan_of(RoleRequest(components=COMPONENTS, pins=overlay.standin_pins()), site)


@pytest.fixture(scope="module")
def machine(plan: Plan, site: Site) -> Iterator[Machine]:
    tmpfs = {SMALL: "size=256k"}
    with open_machine(plan, site=site, label="faults", tmpfs=tmpfs) as opened:
        yield opened


def failed(machine: Machine, plan: Plan) -> set[str]:
    """Return the names of the components with failed checks."""
    return {check.component for check in machine.check(plan) if check.outcome == "failed"}


@pytest.mark.parametrize(
    "task",
    [
        "aws_cli : Run the installer",
        "libfabric : Install packages",
        "limits : Write the limits",
    ],
)
def test_a_killed_play_can_be_repeated(machine: Machine, plan: Plan, task: str) -> None:
    machine.shell("rm -rf /usr/local/aws-cli /usr/local/bin/aws* /etc/security/limits.d/*")
    machine.shell("dpkg --purge --force-depends libfabric1")

    def kill(current: str) -> None:
        if current == task:
            machine.shell("pkill -KILL -f '[r]un/launch.py|[a]nsible-tmp-|^[a]pt-get|[d]pkg'")

    killed = machine.apply(plan, on_task=kill)
    assert not killed.passed
    assert task.partition(" ")[0] in failed(machine, plan)
    again = machine.apply(plan)
    assert again.passed, again.failure
    assert machine.apply(plan).changed == []
    assert failed(machine, plan) == set()


def test_a_successful_play_leaves_no_temporary_files(machine: Machine, plan: Plan) -> None:
    assert machine.apply(plan).passed
    left = machine.shell(
        "find /var/cache /etc/apt /tmp /opt /usr/src -name 'factory*' -not -path '/var/cache/factory-small'"
    )
    assert left == ""


def test_the_next_play_removes_leftovers_of_a_killed_play(machine: Machine, plan: Plan) -> None:
    machine.shell(
        "mkdir -p /var/cache/factory-limits/deep && touch /etc/apt/sources.list.d/factory-vendor.sources"
    )
    assert machine.apply(replace(plan, components=("limits",))).passed
    assert (
        machine.shell("ls -d /var/cache/factory-limits /etc/apt/sources.list.d/factory-* 2>/dev/null || true")
        == ""
    )


@pytest.mark.parametrize("size", [200_000, 1_000_000])
def test_refuses_a_download_that_exceeds_the_free_space(
    machine: Machine, plan: Plan, site: Site, size: int
) -> None:
    url = "https://vendor.example/large"
    path = site.write(url, b"x" * size)
    machine.shell(f"head -c 100000 /dev/zero > {SMALL}/other")
    of = {"url": url, "sha256": overlay.sha256_of(path)}
    task = {
        "ansible.builtin.include_tasks": f"{MOUNT}/ansible/tasks/download.yml",
        "vars": {"download_of": of, "download_to": f"{SMALL}/large"},
    }
    play = machine.apply(plan, tasks=[task])
    assert play.failure is not None
    assert f"has {size} bytes, but the disk has only " in play.failure.message
    assert machine.shell(f"ls -A {SMALL}") == "other"
