"""Checks of Docker: the pinned version, held, with valid settings and rotated logs."""

import json
import re

import pytest
from checks import held, package_version

PACKAGES = {"debian": "docker.io", "ubuntu": "docker-ce", "amazon": "docker"}
SETTINGS = "/etc/docker/daemon.json"
# Docker versions without --validate need this command: the daemon reads its settings, then fails to create
# its storage folder.
ATTEMPT = (
    "timeout 60 dockerd --data-root /proc/nowhere --host unix:///run/check.sock --pidfile /run/check.pid"
)


@pytest.fixture(scope="module")
def settings(host):
    return json.loads(host.file(SETTINGS).content_string)


def find_refusal(host, path):
    """Return the daemon's error about a configuration file, "" if it is valid."""
    run = host.run("dockerd --validate --config-file %s", path)
    if "unknown flag" in run.stderr:
        run = host.run(f"{ATTEMPT} --config-file %s", path)
        return run.stderr if "unable to configure" in run.stderr else ""
    return run.stderr if run.rc else ""


def test_version_matches_the_pin(host, expected):
    name = PACKAGES[expected.capabilities["system_distribution"]]
    wanted = re.escape(expected.versions["docker"])
    assert re.match(rf"(\d+:)?{wanted}(\W|$)", package_version(host, name))
    assert held(host, name)


def test_daemon_accepts_its_settings(host):
    assert find_refusal(host, SETTINGS) == ""


def test_daemon_rejects_an_unknown_setting(host):
    # Proves that test_daemon_accepts_its_settings can fail.
    with_mistake = "printf '{\"live-restroe\": true}' > /run/mistake.json"
    assert host.run(with_mistake).rc == 0
    refusal = find_refusal(host, "/run/mistake.json")
    host.run("rm /run/mistake.json")
    assert "live-restroe" in refusal


def test_daemon_json_has_the_settings_of_the_role(settings, expected):
    wanted = expected.variables["docker_settings"]
    assert {name: settings.get(name) for name in wanted} == wanted


def test_logs_are_rotated(settings):
    options = settings["log-opts"]
    assert re.fullmatch(r"\d+[kmg]", options["max-size"])
    assert int(options["max-file"]) > 1


def test_daemon_json_does_not_set_the_storage_folder(settings):
    assert {"data-root", "graph"} & set(settings) == set()


def test_containers_may_lock_memory(settings):
    assert settings["default-ulimits"]["memlock"] == {"Name": "memlock", "Soft": -1, "Hard": -1}


@pytest.mark.needs("has_systemd")
def test_daemon_may_lock_memory(host):
    assert host.check_output("systemctl show docker --property LimitMEMLOCK --value") == "infinity"


def test_service_is_enabled_at_boot(host):
    assert host.check_output("systemctl is-enabled docker.service") == "enabled"


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify docker.service")
    assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_docker_group_has_the_listed_users(host, expected):
    members = set(host.group("docker").members)
    assert members == set(expected.variables["docker_users"])


@pytest.mark.needs("kernel")
def test_daemon_runs(host):
    info = json.loads(host.check_output("docker info --format '{{ json . }}'"))
    assert info["LiveRestoreEnabled"] is True
    assert info["LoggingDriver"] == "json-file"
