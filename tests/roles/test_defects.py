"""Test that the checks find defects that are injected into a working machine."""

from collections.abc import Iterator

import pytest

from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

COMPONENTS = ("sysctl", "limits", "time_sync", "docker")
SETTINGS = "/etc/sysctl.d/90-image.conf"
# Maps a shell command that injects a defect to the checks that must fail, written as role::check.
DEFECTS = {
    "echo net.ipv4.tcp_timestamps=0 > /etc/sysctl.d/99-a.conf": (
        "sysctl::tcp_timestamps_are_on",
        "sysctl::no_later_file_overrides_a_setting",
    ),
    f"echo net.ipv4.ip_forward=1 >> {SETTINGS}": (
        "sysctl::ip_forwarding_is_not_enabled",
        "sysctl::each_setting_is_written_once",
    ),
    f"sed -i 's/gc_thresh1 = 0/gc_thresh1 = 20000/' {SETTINGS}": ("sysctl::neighbour_thresholds_increase",),
    ": > /etc/modules-load.d/90-image.conf": ("sysctl::modules_are_loaded_before_the_settings",),
    "sed -i /memlock/d /etc/security/limits.d/90-image.conf": (
        "limits::limits_file_has_the_settings",
        "limits::memory_may_be_locked_without_limit",
    ),
    "echo '* - nofile 1024' > /etc/security/limits.d/99-a.conf": ("limits::no_later_file_overrides_a_limit",),
    "rm /etc/systemd/system.conf.d/90-image.conf": ("limits::services_have_the_limits",),
    "sed -i 's/^server .*/server pool.ntp.org/' /etc/chrony/chrony.conf": (
        "time_sync::only_the_configured_servers_are_used",
        "time_sync::first_server_is_preferred",
    ),
    "systemctl --quiet disable chrony.service": ("time_sync::service_is_enabled_at_boot",),
    'sed -i \'s/"max-size": "[^"]*"/"max-size": "-1"/\' /etc/docker/daemon.json': (
        "docker::daemon_json_has_the_settings_of_the_role",
        "docker::logs_are_rotated",
    ),
    "apt-mark unhold docker.io": ("docker::version_matches_the_pin",),
    "echo 'Environment=A=$' > /etc/systemd/system/docker.service.d/99-a.conf": (
        "docker::unit_is_valid",
        "containerd::unit_is_valid",  # its verification also reads docker.service
    ),
    "systemctl --quiet disable docker.service": ("docker::service_is_enabled_at_boot",),
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return overlay.plan_of(RoleRequest(components=list(COMPONENTS)), None)


@pytest.fixture(scope="module")
def machine(plan: Plan) -> Iterator[Machine]:
    with open_machine(plan, site=None, label="defects") as opened:
        play = opened.apply(plan)
        assert play.passed, play.failure
        yield opened


def test_checks_find_each_defect_and_roles_repair_it(machine: Machine, plan: Plan) -> None:
    assert machine.failures(plan) == []
    machine.shell("; ".join(DEFECTS))
    failed = {line.partition(": ")[0].replace("::test_", "::") for line in machine.failures(plan)}
    assert failed == {check for checks in DEFECTS.values() for check in checks}
    machine.shell("rm /etc/sysctl.d/99-a.conf /etc/security/limits.d/99-a.conf")
    machine.shell("rm /etc/systemd/system/docker.service.d/99-a.conf")
    play = machine.apply(plan)
    assert play.passed, play.failure
    assert machine.failures(plan) == []
