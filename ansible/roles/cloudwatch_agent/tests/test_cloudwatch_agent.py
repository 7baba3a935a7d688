"""Checks of the CloudWatch agent: the pinned version, started at boot only if it is configured."""

import json
import re

from checks import held, package_version

UNIT = "amazon-cloudwatch-agent.service"
FOLDER = "/opt/aws/amazon-cloudwatch-agent"


def test_version_matches_the_pin(host, expected):
    wanted = re.escape(expected.versions["cloudwatch_agent"])
    assert re.fullmatch(rf"{wanted}(-\d+)?", package_version(host, "amazon-cloudwatch-agent"))
    assert held(host, "amazon-cloudwatch-agent")


def test_version_file_matches_the_pin(host, expected):
    output = host.file(f"{FOLDER}/bin/CWAGENT_VERSION").content_string.strip()
    assert output == expected.versions["cloudwatch_agent"]


def test_control_program_is_executable(host):
    assert host.file(f"{FOLDER}/bin/amazon-cloudwatch-agent-ctl").mode & 0o111


def test_configuration_matches_the_settings(host, expected):
    wanted = expected.variables["cloudwatch_agent_settings"]
    file = host.file("/opt/aws/amazon-cloudwatch-agent/etc/amazon-cloudwatch-agent.json")
    assert (json.loads(file.content_string) if file.exists else {}) == wanted


def test_service_is_enabled_if_configured(host, expected):
    wanted = "enabled" if expected.variables["cloudwatch_agent_settings"] else "disabled"
    assert host.run("systemctl is-enabled %s", UNIT).stdout.strip() == wanted


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")
