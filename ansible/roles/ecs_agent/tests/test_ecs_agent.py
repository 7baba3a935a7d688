"""Checks of the ECS agent: its version, its start order, GPU support, no state of another machine."""

import pytest
from checks import held, package_version
from checks.exporters import problems

NVIDIA_RUNTIME = "/usr/bin/nvidia-container-runtime"


def test_package_is_pinned_and_held(host, expected):
    package = expected.variables["ecs_agent_package"]
    assert package_version(host, package).startswith(expected.versions["ecs_agent"])
    assert held(host, package)


def test_agent_image_is_preloaded(host):
    # Without the preloaded image the first boot downloads the newest one.
    assert host.check_output("find -L /var/cache/ecs -name 'ecs-agent*.tar' -size +0")
    assert host.file("/var/cache/ecs/state").content_string.strip() in ("1", "2")


def test_gpus_are_enabled_if_the_nvidia_runtime_is_installed(host):
    settings = host.file("/var/lib/ecs/ecs.config")
    offered = settings.exists and "ECS_ENABLE_GPU_SUPPORT=true" in settings.content_string.splitlines()
    assert offered is host.file(NVIDIA_RUNTIME).exists


def test_image_has_no_cluster_state(host):
    assert host.run("find /var/lib/ecs/data /var/log/ecs -type f").stdout == ""
    assert "ECS_CLUSTER" not in host.run("cat /etc/ecs/ecs.config /var/lib/ecs/ecs.config").stdout


@pytest.mark.needs("has_systemd")
def test_agent_is_enabled_and_not_failed(host):
    assert host.check_output("systemctl is-enabled ecs") == "enabled"
    assert host.run("systemctl is-failed ecs").stdout.strip() != "failed"


@pytest.mark.needs("has_systemd")
def test_agent_waits_for_user_data_and_docker(host):
    after = host.check_output("systemctl show ecs --property After --value").split()
    assert {"cloud-final.service", "docker.service"} <= set(after)


@pytest.mark.needs("has_systemd")
def test_units_have_no_ordering_cycle(host):
    # If cloud-final starts after multi-user.target, a unit wanted by that target cannot start after
    # cloud-final.
    shown = host.run("systemctl show cloud-final --property After --value").stdout.split()
    wanted = host.run("systemctl show multi-user.target --property Wants --value").stdout.split()
    assert "multi-user.target" not in shown or "ecs.service" not in wanted


@pytest.mark.needs("has_systemd")
def test_unit_is_valid(host):
    assert problems(host, "ecs.service") == ""
