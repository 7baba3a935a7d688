"""Docker: the pinned version, held, settings that the daemon accepts, nothing that fills the root disk."""

import json
import re

import pytest
from checks import held, package_version

PACKAGES = {"debian": "docker.io", "ubuntu": "docker-ce", "amazon": "docker"}
SETTINGS = "/etc/docker/daemon.json"
# For daemons that cannot check their settings: one that reads them, and then finds no place for its images.
ATTEMPT = (
    "timeout 60 dockerd --data-root /proc/nowhere --host unix:///run/check.sock --pidfile /run/check.pid"
)


@pytest.fixture(scope="module")
def settings(host):
    return json.loads(host.file(SETTINGS).content_string)


def find_refusal(host, path):
    """What the daemon has against a file of settings; "" where it would start with it."""
    run = host.run("dockerd --validate --config-file %s", path)
    if "unknown flag" in run.stderr:
        run = host.run(f"{ATTEMPT} --config-file %s", path)
        return run.stderr if "unable to configure" in run.stderr else ""
    return run.stderr if run.rc else ""


def test_version_is_the_pinned_one(host, expected):
    name = PACKAGES[expected.capabilities["system_distribution"]]
    wanted = re.escape(expected.versions["docker"])
    assert re.match(rf"(\d+:)?{wanted}(\W|$)", package_version(host, name))
    assert held(host, name)


def test_daemon_accepts_its_settings(host):
    assert find_refusal(host, SETTINGS) == ""


def test_daemon_would_refuse_others(host):
    # The check above means something only if this is so.
    with_mistake = "printf '{\"live-restroe\": true}' > /run/mistake.json"
    assert host.run(with_mistake).rc == 0
    refusal = find_refusal(host, "/run/mistake.json")
    host.run("rm /run/mistake.json")
    assert "live-restroe" in refusal


def test_settings_are_those_of_the_image(settings, expected):
    wanted = expected.variables["docker_settings"]
    assert {name: settings.get(name) for name in wanted} == wanted


def test_logs_do_not_fill_the_disk(settings):
    options = settings["log-opts"]
    assert re.fullmatch(r"\d+[kmg]", options["max-size"])
    assert int(options["max-file"]) > 1


def test_images_are_not_bound_to_the_root_disk(settings):
    assert {"data-root", "graph"} & set(settings) == set()


def test_containers_may_lock_memory(settings):
    assert settings["default-ulimits"]["memlock"] == {"Name": "memlock", "Soft": -1, "Hard": -1}


@pytest.mark.needs("has_systemd")
def test_daemon_may_lock_memory(host):
    assert host.check_output("systemctl show docker --property LimitMEMLOCK --value") == "infinity"


def test_service_starts_with_the_machine(host):
    assert host.check_output("systemctl is-enabled docker.service") == "enabled"


def test_service_has_no_mistakes(host):
    run = host.run("systemd-analyze verify docker.service")
    assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_those_who_may_use_it_are_in_the_group(host, expected):
    members = set(host.group("docker").members)
    assert members == set(expected.variables["docker_users"])


@pytest.mark.needs("kernel")
def test_daemon_runs(host):
    said = json.loads(host.check_output("docker info --format '{{ json . }}'"))
    assert said["LiveRestoreEnabled"] is True
    assert said["LoggingDriver"] == "json-file"
