"""Checks of containerd: the pinned version, held, started at boot with raised limits."""

import re

import pytest
from checks import held, package_version

PACKAGES = {"debian": "containerd", "ubuntu": "containerd.io", "amazon": "containerd"}


def test_version_matches_the_pin(host, expected):
    name = PACKAGES[expected.capabilities["system_distribution"]]
    wanted = re.escape(expected.versions["containerd"])
    assert re.match(rf"{wanted}(\W|$)", package_version(host, name))
    assert held(host, name)


def test_program_has_the_pinned_version(host, expected):
    output = host.check_output("containerd --version").split()
    assert any(word.lstrip("v").partition("~")[0] == expected.versions["containerd"] for word in output)


def test_configuration_is_valid(host):
    run = host.run("containerd config dump")
    assert run.rc == 0, run.stderr
    assert run.stdout.count("\n") > 20


def test_runc_is_installed(host):
    assert host.exists("runc")
    assert host.exists("containerd-shim-runc-v2")


def test_service_is_enabled_at_boot(host):
    assert host.check_output("systemctl is-enabled containerd") == "enabled"


@pytest.mark.needs("has_systemd")
def test_containers_may_lock_memory(host):
    shown = host.check_output("systemctl show containerd --property LimitMEMLOCK,LimitSTACK").split()
    assert sorted(shown) == ["LimitMEMLOCK=infinity", "LimitSTACK=infinity"]


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify containerd.service")
    assert (run.rc, run.stdout + run.stderr) == (0, "")


@pytest.mark.needs("kernel")
def test_service_answers(host):
    assert host.run("ctr version").rc == 0
