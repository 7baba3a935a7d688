"""Checks of the Systems Manager agent: the pinned version, installed once, started at boot."""

import re

import pytest
from checks import held, package_version

UNIT = "amazon-ssm-agent.service"


def test_version_matches_the_pin(host, expected):
    wanted = re.escape(expected.versions["ssm_agent"])
    assert re.fullmatch(rf"{wanted}(-\d+)?", package_version(host, "amazon-ssm-agent"))
    assert held(host, "amazon-ssm-agent")


def test_program_has_the_pinned_version(host, expected):
    assert expected.versions["ssm_agent"] in host.check_output("amazon-ssm-agent -version").split()


def test_only_one_agent_is_installed(host):
    assert not host.file("/snap/amazon-ssm-agent").exists
    found = host.check_output(
        "find /etc/systemd/system /lib/systemd/system -name '*amazon-ssm-agent*.service'"
    )
    names = {path.rsplit("/", 1)[-1] for path in found.split()}
    assert names == {UNIT}


def test_service_is_enabled_at_boot(host):
    assert host.check_output("systemctl is-enabled %s", UNIT) == "enabled"


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


@pytest.mark.needs("kernel")
def test_service_runs(host):
    assert host.check_output("systemctl is-active %s", UNIT) == "active"
