"""Nobody gets in with a password, root not at all; what breaks training is only there where asked for."""

import re

import pytest

# A key for the time of the question: an image has none of its own, and sshd says nothing without one.
ASK_SSHD = """
set -e
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
ssh-keygen -q -t ed25519 -N '' -f "$folder/key"
mkdir -p /run/sshd
/usr/sbin/sshd -T -h "$folder/key" -C user=%s,host=somewhere,addr=192.0.2.1
"""


def ask_sshd(host, user):
    """The settings that are in force for a user, all files read; names and values in small letters."""
    run = host.run(ASK_SSHD, user)
    assert run.rc == 0, run.stderr
    return dict(line.split(" ", 1) for line in run.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("user", ["root", "somebody"])
def test_server_has_the_settings(host, expected, user):
    wanted = {name.lower(): value for name, value in expected.variables["hardening_sshd"].items()}
    in_force = ask_sshd(host, user)
    assert {name: in_force.get(name) for name in wanted} == wanted


def test_root_cannot_log_in(host):
    in_force = ask_sshd(host, "root")
    assert in_force["permitrootlogin"] == "no"
    assert in_force["passwordauthentication"] == in_force["permitemptypasswords"] == "no"


def test_no_account_has_a_password(host):
    shadow = host.file("/etc/shadow").content_string
    entries = dict(line.split(":")[:2] for line in shadow.splitlines())
    assert [name for name, password in entries.items() if password[:1] not in ("!", "*")] == []


def test_root_is_the_only_one_like_root(host):
    users = host.check_output("getent passwd").splitlines()
    assert [line.split(":")[0] for line in users if line.split(":")[2] == "0"] == ["root"]


def test_nothing_listens_that_speaks_in_clear(host):
    names = (
        "telnetd",
        "rsh-server",
        "rsh-redone-server",
        "vsftpd",
        "telnet-server",
        "tftpd",
        "nis",
        "ypserv",
    )
    assert [name for name in names if host.package(name).is_installed] == []


def test_records_are_kept_only_where_asked_for(host, expected):
    state = host.run("systemctl is-enabled auditd").stdout.strip()
    assert (state == "enabled") is expected.variables["hardening_audit"]


def test_programs_run_from_temporary_files_unless_told_otherwise(host, expected):
    unit = host.file("/etc/systemd/system/tmp.mount")
    assert unit.exists is expected.variables["hardening_noexec_tmp"]
    entries = [line.split() for line in host.run("cat /etc/fstab").stdout.splitlines()]
    options = [words[3] for words in entries if len(words) > 3 and words[1] in ("/tmp", "/var/tmp")]
    assert unit.exists or not any("noexec" in text for text in options)
    if unit.exists:
        assert host.check_output("systemctl is-enabled tmp.mount") == "enabled"
        run = host.run("systemd-analyze verify tmp.mount")
        assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_sudo_asks_nobody_from_outside(host):
    # Rules by the name of a host or with a password in them have no place in an image.
    rules = host.run("cat /etc/sudoers /etc/sudoers.d/*").stdout
    assert not re.search(r"!authenticate|targetpw|rootpw", rules)
