"""Checks of the NVIDIA container toolkit: packages of one version, configured in all container engines."""

import json
import tomllib

import pytest
from checks import held, package_version

PACKAGES = (
    "libnvidia-container1",
    "libnvidia-container-tools",
    "nvidia-container-toolkit-base",
    "nvidia-container-toolkit",
)
UNITS = ("nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path")


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_the_pinned_version(host, expected, package):
    wanted = expected.versions["nvidia_container_toolkit"].partition("-")[0]
    assert package_version(host, package).partition("-")[0] == wanted


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_held(host, package):
    assert held(host, package)


def test_program_has_the_pinned_version(host, expected):
    wanted = expected.versions["nvidia_container_toolkit"].partition("-")[0]
    assert f"version {wanted}" in host.check_output("nvidia-ctk --version")


def test_docker_has_the_nvidia_runtime(host):
    if host.exists("dockerd"):
        settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
        assert settings["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
        assert host.run("dockerd --validate --config-file /etc/docker/daemon.json").rc == 0


def test_containerd_has_the_nvidia_runtime(host):
    if host.exists("containerd"):
        files = host.check_output("find /etc/containerd -name '*.toml'").split()
        texts = [host.file(path).content_string for path in files]
        for text in texts:
            tomllib.loads(text)
        assert [text for text in texts if "nvidia-container-runtime" in text]


def test_nvidia_docker2_is_not_installed(host):
    # nvidia-docker2 is the deprecated predecessor, which has its own settings for Docker.
    assert package_version(host, "nvidia-docker2") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_cdi_unit_is_enabled(host, unit):
    assert host.check_output("systemctl is-enabled %s", unit) == "enabled"


def test_cdi_service_requires_a_gpu(host):
    condition = host.check_output("systemctl show --property ExecCondition --value %s", UNITS[0])
    assert "argv[]=/usr/local/libexec/nvidia-present gpu ;" in condition
    assert condition.count("argv[]=") == 1


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_valid(host, unit):
    run = host.run("systemd-analyze verify %s", unit)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_image_has_no_cdi_devices(host, expected):
    if not expected.capabilities.get("gpu"):
        assert host.run("ls /etc/cdi /run/cdi /var/run/cdi 2>/dev/null").stdout.split() == []


@pytest.mark.needs("gpu")
def test_cdi_lists_all_gpus(host):
    assert "nvidia.com/gpu=all" in host.check_output("nvidia-ctk cdi list").split()
