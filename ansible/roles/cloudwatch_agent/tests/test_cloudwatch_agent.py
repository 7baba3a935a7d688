"""The agent of CloudWatch: the pinned version, and started at boot only where it knows what to collect."""

import json
import re

from checks import held, package_version

UNIT = "amazon-cloudwatch-agent.service"
FOLDER = "/opt/aws/amazon-cloudwatch-agent"


def test_version_is_the_pinned_one(host, expected):
    wanted = re.escape(expected.versions["cloudwatch_agent"])
    assert re.fullmatch(rf"{wanted}(-\d+)?", package_version(host, "amazon-cloudwatch-agent"))
    assert held(host, "amazon-cloudwatch-agent")


def test_files_are_of_that_version(host, expected):
    said = host.file(f"{FOLDER}/bin/CWAGENT_VERSION").content_string.strip()
    assert said == expected.versions["cloudwatch_agent"]


def test_control_program_is_there(host):
    assert host.file(f"{FOLDER}/bin/amazon-cloudwatch-agent-ctl").mode & 0o111


def test_agent_collects_what_it_was_told(host, expected):
    wanted = expected.variables["cloudwatch_agent_settings"]
    file = host.file(f"{FOLDER}/etc/amazon-cloudwatch-agent.json")
    assert (json.loads(file.content_string) if file.exists else {}) == wanted


def test_service_starts_where_it_has_something_to_do(host, expected):
    wanted = "enabled" if expected.variables["cloudwatch_agent_settings"] else "disabled"
    assert host.run("systemctl is-enabled %s", UNIT).stdout.strip() == wanted


def test_service_has_no_mistakes(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")
