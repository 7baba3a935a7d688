"""One clock for all machines: chrony, the time service of the cloud, nobody else who sets the clock."""

import pytest

OTHERS = ("systemd-timesyncd.service", "ntp.service", "ntpsec.service", "openntpd.service")


def read_settings(host, expected):
    """The words of each line as chrony understands them, files that it includes and all."""
    path = expected.variables["time_sync_settings"]
    return [line.split() for line in host.check_output("chronyd -p -f %s", path).splitlines() if line]


def test_settings_are_understood(host, expected):
    run = host.run("chronyd -p -f %s", expected.variables["time_sync_settings"])
    assert (run.rc, run.stderr) == (0, "")


def test_time_comes_from_the_servers_and_from_nowhere_else(host, expected):
    settings = read_settings(host, expected)
    sources = [words[1] for words in settings if words[0] in ("server", "pool", "peer")]
    assert sources == expected.variables["time_sync_servers"]
    assert not any(words[0] in ("sourcedir", "confdir", "include") for words in settings)


def test_first_server_is_preferred(host, expected):
    preferred = [words[1] for words in read_settings(host, expected) if "prefer" in words]
    assert preferred == expected.variables["time_sync_servers"][:1]


def test_clock_does_not_jump_later(host, expected):
    [steps] = [words for words in read_settings(host, expected) if words[0] == "makestep"]
    assert 0 < int(steps[2]) <= 10


def test_service_starts_with_the_machine(host, expected):
    service = expected.variables["time_sync_service"]
    assert host.check_output("systemctl is-enabled %s", service) == "enabled"


def test_nobody_else_sets_the_clock(host):
    states = {unit: host.run("systemctl is-enabled %s", unit).stdout.strip() for unit in OTHERS}
    assert [unit for unit, state in states.items() if state in ("enabled", "static")] == []


@pytest.mark.needs("kernel")
def test_clock_follows_the_preferred_server(host, expected):
    report = host.check_output("chronyc -n -c sources")
    chosen = [line.split(",")[2] for line in report.splitlines() if line.split(",")[1] == "*"]
    assert chosen == expected.variables["time_sync_servers"][:1]
