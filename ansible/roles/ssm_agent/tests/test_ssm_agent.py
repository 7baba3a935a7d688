"""The agent of Systems Manager: one of them, the pinned version, started at boot."""

import re

import pytest
from checks import held, package_version

UNIT = "amazon-ssm-agent.service"


def test_version_is_the_pinned_one(host, expected):
    wanted = re.escape(expected.versions["ssm_agent"])
    assert re.fullmatch(rf"{wanted}(-\d+)?", package_version(host, "amazon-ssm-agent"))
    assert held(host, "amazon-ssm-agent")


def test_program_is_of_that_version(host, expected):
    assert expected.versions["ssm_agent"] in host.check_output("amazon-ssm-agent -version").split()


def test_there_is_one_agent(host):
    assert not host.file("/snap/amazon-ssm-agent").exists
    found = host.check_output(
        "find /etc/systemd/system /lib/systemd/system -name '*amazon-ssm-agent*.service'"
    )
    names = {path.rsplit("/", 1)[-1] for path in found.split()}
    assert names == {UNIT}


def test_service_starts_with_the_machine(host):
    assert host.check_output("systemctl is-enabled %s", UNIT) == "enabled"


def test_service_has_no_mistakes(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


@pytest.mark.needs("kernel")
def test_service_runs(host):
    assert host.check_output("systemctl is-active %s", UNIT) == "active"
