"""Limits of sessions and services, settings of the kernel."""

import pytest

SESSION_FILE = "/etc/security/limits.d/90-image.conf"
SYSCTL_FILE = "/etc/sysctl.d/90-image.conf"


def read_lines(host, path):
    lines = (line.partition("#")[0].strip() for line in host.file(path).content_string.splitlines())
    return [line for line in lines if line]


def test_session_limits_parse(host, expected):
    entries = [tuple(line.split()) for line in read_lines(host, SESSION_FILE)]
    wanted = expected.variables["limits_session"]
    for domain in ("*", "root"):
        assert {name: value for who, kind, name, value in entries if who == domain} == wanted
    assert {kind for _, kind, _, _ in entries} == {"-"}


def test_a_session_opens_under_the_limits(host):
    assert host.run("su root -s /bin/sh -c true").rc == 0


@pytest.mark.needs("has_systemd")
def test_sessions_have_the_limits(host, expected):
    flags = {"core": "c", "memlock": "l", "nofile": "n", "stack": "s"}
    for name, value in expected.variables["limits_session"].items():
        assert host.check_output("su - root -c 'ulimit -H%s'", flags[name]) == value


def test_kernel_settings_are_written_once_each(host, expected):
    lines = [line.split(" = ") for line in read_lines(host, SYSCTL_FILE)]
    found = dict(lines)
    assert len(found) == len(lines)
    wanted = {name: str(value) for name, value in expected.variables["limits_sysctl"].items()}
    assert wanted.items() <= found.items()
    assert found["net.ipv4.tcp_congestion_control"] == expected.variables["limits_congestion_control"]


def test_socket_buffers_fit_the_largest_window(host):
    found = dict(line.split(" = ") for line in read_lines(host, SYSCTL_FILE))
    for way in ("rmem", "wmem"):
        smallest, usual, largest = map(int, found[f"net.ipv4.tcp_{way}"].split())
        assert smallest <= usual <= largest <= int(found[f"net.core.{way}_max"])


@pytest.mark.needs("can_load_modules")
def test_kernel_has_the_settings(host, expected):
    for name, value in expected.variables["limits_sysctl"].items():
        assert host.check_output("sysctl -n %s", name).split() == str(value).split()


@pytest.mark.needs("has_systemd")
def test_services_have_the_limits(host):
    assert host.check_output("systemctl show --property DefaultLimitMEMLOCK --value") == "infinity"
