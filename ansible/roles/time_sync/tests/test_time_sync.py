"""Checks of time synchronization: chrony with the configured servers and no other time service."""

import pytest

OTHERS = ("systemd-timesyncd.service", "ntp.service", "ntpsec.service", "openntpd.service")


def read_settings(host, expected):
    """Return the words of each line of chrony's configuration, with include files, as chrony parses it."""
    path = expected.variables["time_sync_settings"]
    return [line.split() for line in host.check_output("chronyd -p -f %s", path).splitlines() if line]


def test_configuration_is_valid(host, expected):
    run = host.run("chronyd -p -f %s", expected.variables["time_sync_settings"])
    assert (run.rc, run.stderr) == (0, "")


def test_only_the_configured_servers_are_used(host, expected):
    settings = read_settings(host, expected)
    sources = [words[1] for words in settings if words[0] in ("server", "pool", "peer")]
    assert sources == expected.variables["time_sync_servers"]
    assert not any(words[0] in ("sourcedir", "confdir", "include") for words in settings)


def test_first_server_is_preferred(host, expected):
    preferred = [words[1] for words in read_settings(host, expected) if "prefer" in words]
    assert preferred == expected.variables["time_sync_servers"][:1]


def test_clock_steps_only_at_startup(host, expected):
    [steps] = [words for words in read_settings(host, expected) if words[0] == "makestep"]
    assert 0 < int(steps[2]) <= 10


def test_service_is_enabled_at_boot(host, expected):
    service = expected.variables["time_sync_service"]
    assert host.check_output("systemctl is-enabled %s", service) == "enabled"


def test_no_other_time_service_is_enabled(host):
    states = {unit: host.run("systemctl is-enabled %s", unit).stdout.strip() for unit in OTHERS}
    assert [unit for unit, state in states.items() if state in ("enabled", "static")] == []


@pytest.mark.needs("kernel")
def test_clock_follows_the_preferred_server(host, expected):
    report = host.check_output("chronyc -n -c sources")
    chosen = [line.split(",")[2] for line in report.splitlines() if line.split(",")[1] == "*"]
    assert chosen == expected.variables["time_sync_servers"][:1]
