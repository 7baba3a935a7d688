"""Checks of the resource limits of sessions and services."""

import pytest

SESSION_FILE = "/etc/security/limits.d/90-image.conf"


def read_entries(host):
    lines = (line.partition("#")[0].split() for line in host.file(SESSION_FILE).content_string.splitlines())
    return [tuple(words) for words in lines if words]


def test_limits_file_has_the_settings(host, expected):
    entries = read_entries(host)
    wanted = expected.variables["limits_session"]
    for domain in ("*", "root"):
        assert {name: value for who, kind, name, value in entries if who == domain} == wanted
    assert {kind for _, kind, _, _ in entries} == {"-"}


def test_memory_may_be_locked_without_limit(host):
    assert {("*", "-", "memlock", "unlimited"), ("root", "-", "memlock", "unlimited")} <= set(
        read_entries(host)
    )


def test_no_later_file_overrides_a_limit(host):
    # pam_limits reads the files in the order of their names; the last value wins.
    names = {name for _, _, name, _ in read_entries(host)}
    files = host.check_output("ls /etc/security/limits.d/*.conf").split()
    later = [path for path in files if path > SESSION_FILE]
    limits = {path: host.check_output("awk '!/^#/ && NF == 4 {print $3}' %s", path).split() for path in later}
    assert {path: words for path, words in limits.items() if names & set(words)} == {}


def test_session_can_be_opened_with_the_limits(host):
    assert host.run("su root -s /bin/sh -c true").rc == 0


@pytest.mark.needs("kernel")
def test_sessions_have_the_limits(host, expected):
    # Limits in a container depend on the engine's limits, so the check needs the kernel of the image.
    flags = {"core": "c", "memlock": "l", "nofile": "n", "stack": "s"}
    for name, value in expected.variables["limits_session"].items():
        assert host.check_output("su - root -c 'ulimit -H%s'", flags[name]) == value


@pytest.mark.needs("has_systemd")
def test_services_have_the_limits(host):
    merged = host.check_output("systemd-analyze cat-config systemd/system.conf").splitlines()
    found = dict(line.split("=", 1) for line in merged if line.startswith("DefaultLimit"))
    assert found["DefaultLimitMEMLOCK"] == found["DefaultLimitSTACK"] == "infinity"


@pytest.mark.needs("kernel")
def test_running_services_have_the_limits(host):
    assert host.check_output("systemctl show --property DefaultLimitMEMLOCK --value") == "infinity"
