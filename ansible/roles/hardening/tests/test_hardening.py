"""Checks of the hardening: no password login, no root login, optional settings only if enabled."""

import re

import pytest

# sshd -T needs a host key, which an image does not have.
ASK_SSHD = """
set -e
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
ssh-keygen -q -t ed25519 -N '' -f "$folder/key"
mkdir -p /run/sshd
/usr/sbin/sshd -T -h "$folder/key" -C user=%s,host=somewhere,addr=192.0.2.1
"""


def ask_sshd(host, user):
    """Return the effective sshd settings for a user, in lower case."""
    run = host.run(ASK_SSHD, user)
    assert run.rc == 0, run.stderr
    return dict(line.split(" ", 1) for line in run.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("user", ["root", "user"])
def test_sshd_has_the_settings(host, expected, user):
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


def test_only_root_has_uid_0(host):
    users = host.check_output("getent passwd").splitlines()
    assert [line.split(":")[0] for line in users if line.split(":")[2] == "0"] == ["root"]


def test_no_unencrypted_servers_are_installed(host):
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


def test_audit_daemon_matches_the_setting(host, expected):
    state = host.run("systemctl is-enabled auditd").stdout.strip()
    assert (state == "enabled") is expected.variables["hardening_audit"]


def test_noexec_of_tmp_matches_the_setting(host, expected):
    unit = host.file("/etc/systemd/system/tmp.mount")
    assert unit.exists is expected.variables["hardening_noexec_tmp"]
    entries = [line.split() for line in host.run("cat /etc/fstab").stdout.splitlines()]
    options = [words[3] for words in entries if len(words) > 3 and words[1] in ("/tmp", "/var/tmp")]
    assert unit.exists or not any("noexec" in text for text in options)
    if unit.exists:
        assert host.check_output("systemctl is-enabled tmp.mount") == "enabled"
        run = host.run("systemd-analyze verify tmp.mount")
        assert (run.rc, run.stdout + run.stderr) == (0, "")


def test_sudoers_has_no_unsafe_options(host):
    # These options allow sudo without a password or with the password of another user.
    rules = host.run("cat /etc/sudoers /etc/sudoers.d/*").stdout
    assert not re.search(r"!authenticate|targetpw|rootpw", rules)
