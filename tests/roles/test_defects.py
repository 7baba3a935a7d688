"""What makes machines unfit for training, done to a machine that is fit: its checks see every bit of it."""

from collections.abc import Iterator

import pytest

from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

COMPONENTS = ("sysctl", "limits", "time_sync", "docker")
SETTINGS = "/etc/sysctl.d/90-image.conf"
# What is done → the checks that see it, as role::check.
DEFECTS = {
    "echo net.ipv4.tcp_timestamps=0 > /etc/sysctl.d/99-a.conf": (
        "sysctl::timestamps_stay_on",
        "sysctl::no_later_file_overrules_a_setting",
    ),
    f"echo net.ipv4.ip_forward=1 >> {SETTINGS}": (
        "sysctl::machine_is_no_router",
        "sysctl::each_setting_is_written_once",
    ),
    f"sed -i 's/gc_thresh1 = 0/gc_thresh1 = 20000/' {SETTINGS}": (
        "sysctl::neighbour_table_grows_step_by_step",
    ),
    ": > /etc/modules-load.d/90-image.conf": ("sysctl::modules_are_loaded_before_the_settings",),
    "sed -i /memlock/d /etc/security/limits.d/90-image.conf": (
        "limits::session_limits_parse",
        "limits::memory_may_be_locked_without_limit",
    ),
    "echo '* - nofile 1024' > /etc/security/limits.d/99-a.conf": ("limits::no_later_file_overrules_a_limit",),
    "rm /etc/systemd/system.conf.d/90-image.conf": ("limits::services_have_the_limits",),
    "sed -i 's/^server .*/server pool.ntp.org/' /etc/chrony/chrony.conf": (
        "time_sync::time_comes_from_the_servers_and_from_nowhere_else",
        "time_sync::first_server_is_preferred",
    ),
    "systemctl --quiet disable chrony.service": ("time_sync::service_starts_with_the_machine",),
    'sed -i \'s/"max-size": "[^"]*"/"max-size": "-1"/\' /etc/docker/daemon.json': (
        "docker::settings_are_those_of_the_image",
        "docker::logs_do_not_fill_the_disk",
    ),
    "apt-mark unhold docker.io": ("docker::version_is_the_pinned_one",),
    "echo 'Environment=A=$' > /etc/systemd/system/docker.service.d/99-a.conf": (
        "docker::service_has_no_mistakes",
        "containerd::service_has_no_mistakes",  # which Docker's wants, and is read with it
    ),
    "systemctl --quiet disable docker.service": ("docker::service_starts_with_the_machine",),
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


def test_each_defect_is_seen_and_the_roles_mend_it(machine: Machine, plan: Plan) -> None:
    assert machine.failures(plan) == []
    machine.shell("; ".join(DEFECTS))
    failed = {line.partition(": ")[0].replace("::test_", "::") for line in machine.failures(plan)}
    assert failed == {check for checks in DEFECTS.values() for check in checks}
    machine.shell("rm /etc/sysctl.d/99-a.conf /etc/security/limits.d/99-a.conf")
    machine.shell("rm /etc/systemd/system/docker.service.d/99-a.conf")
    play = machine.apply(plan)
    assert play.passed, play.failure
    assert machine.failures(plan) == []
