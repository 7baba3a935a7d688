"""Checks of the persistence daemon: started at boot if there is a GPU, with persistence mode on."""

import re

import pytest
from checks import package_version

UNIT = "nvidia-persistenced.service"


def test_service_is_enabled_at_boot(host):
    # A unit without an [Install] section is static and never starts at boot.
    assert host.check_output("systemctl is-enabled %s", UNIT) == "enabled"
    assert host.check_output("systemctl show --property UnitFileState --value %s", UNIT) == "enabled"
    wants = host.check_output("systemctl show --property Wants --value multi-user.target").split()
    assert UNIT in wants


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_unit_is_complete(host):
    # A drop-in file installed as the unit would lack Type= and start with an empty ExecStart=.
    text = host.file(f"/etc/systemd/system/{UNIT}").content_string
    assert len(re.findall(r"^ExecStart=", text, re.MULTILINE)) == 1
    assert re.search(r"^ExecStart=/", text, re.MULTILINE)
    assert "After=multi-user.target" not in text


def test_persistence_mode_is_on(host):
    start = host.check_output("systemctl show --property ExecStart --value %s", UNIT)
    assert "--persistence-mode" in start.split()
    assert "--no-persistence-mode" not in start.split()


def test_daemon_prints_its_version(host):
    assert host.run("nvidia-persistenced --version").rc == 0


def test_daemon_user_exists_without_password(host):
    start = host.check_output("systemctl show --property ExecStart --value %s", UNIT)
    user = host.user(re.search(r"--user (\S+)", start)[1])
    assert user.exists
    assert user.shell.endswith(("nologin", "false", "/sh"))
    assert user.password in ("!", "!!", "*")


def test_service_requires_a_gpu(host, expected):
    condition = host.check_output("systemctl show --property ExecCondition --value %s", UNIT)
    assert "argv[]=/usr/local/libexec/nvidia-present gpu ;" in condition
    if not expected.capabilities.get("gpu"):
        # A failed condition skips the start without an error.
        assert host.run("systemctl start %s", UNIT).rc == 0
        assert host.check_output("systemctl is-failed %s || true", UNIT) == "inactive"


def test_daemon_branch_matches_the_driver_branch(host, expected):
    version = package_version(host, "nvidia-persistenced")
    if version:
        branch = version.rpartition(":")[2].partition(".")[0]
        assert branch == expected.versions["nvidia_driver"].partition(".")[0]


@pytest.mark.needs("gpu")
def test_service_runs(host):
    assert host.service("nvidia-persistenced").is_running
    modes = host.check_output("nvidia-smi --query-gpu=persistence_mode --format=csv,noheader").split()
    assert set(modes) == {"Enabled"}
