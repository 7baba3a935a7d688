"""The agent of ECS: its version, when it starts, what it offers, and no memory of another machine."""

import pytest
from checks import held, package_version
from checks.exporters import problems

NVIDIA_RUNTIME = "/usr/bin/nvidia-container-runtime"


def test_exact_version_and_held(host, expected):
    package = expected.variables["ecs_agent_package"]
    assert package_version(host, package).startswith(expected.versions["ecs_agent"])
    assert held(host, package)


def test_image_of_the_agent_comes_along(host):
    # Without it the first boot downloads whatever is the newest.
    assert host.check_output("find -L /var/cache/ecs -name 'ecs-agent*.tar' -size +0")
    assert host.file("/var/cache/ecs/state").content_string.strip() in ("1", "2")


def test_gpus_are_offered_where_a_runtime_is(host):
    settings = host.file("/var/lib/ecs/ecs.config")
    offered = settings.exists and "ECS_ENABLE_GPU_SUPPORT=true" in settings.content_string.splitlines()
    assert offered is host.file(NVIDIA_RUNTIME).exists


def test_image_belongs_to_no_cluster(host):
    assert host.run("find /var/lib/ecs/data /var/log/ecs -type f").stdout == ""
    assert "ECS_CLUSTER" not in host.run("cat /etc/ecs/ecs.config /var/lib/ecs/ecs.config").stdout


@pytest.mark.needs("has_systemd")
def test_agent_starts_at_boot_and_has_not_started_yet(host):
    assert host.check_output("systemctl is-enabled ecs") == "enabled"
    assert host.run("systemctl is-failed ecs").stdout.strip() != "failed"


@pytest.mark.needs("has_systemd")
def test_agent_waits_for_user_data_and_docker(host):
    after = host.check_output("systemctl show ecs --property After --value").split()
    assert {"cloud-final.service", "docker.service"} <= set(after)


@pytest.mark.needs("has_systemd")
def test_boot_does_not_wait_for_itself(host):
    # Where cloud-final waits for multi-user.target, what that target wants cannot wait for cloud-final.
    shown = host.run("systemctl show cloud-final --property After --value").stdout.split()
    wanted = host.run("systemctl show multi-user.target --property Wants --value").stdout.split()
    assert "multi-user.target" not in shown or "ecs.service" not in wanted


@pytest.mark.needs("has_systemd")
def test_unit_is_sound(host):
    assert problems(host, "ecs.service") == ""
