"""Nothing of the build stays, and nothing that must differ between machines."""

import pytest

EXPECTED_PRIVILEGED = {
    "chage",
    "chfn",
    "chsh",
    "crontab",
    "dbus-daemon-launch-helper",
    "expiry",
    "gpasswd",
    "mount",
    "newgrp",
    "pam_timestamp_check",
    "passwd",
    "pkexec",
    "polkit-agent-helper-1",
    "ssh-agent",
    "ssh-keysign",
    "su",
    "sudo",
    "sudoedit",
    "umount",
    "unix_chkpwd",
    "utempter",
    "write",
}


def find(host, arguments):
    return host.check_output(f"find / -xdev {arguments}").splitlines()


@pytest.mark.parametrize(
    "folder",
    ["/var/lib/apt/lists", "/var/cache/apt", "/var/cache/dnf", "/tmp", "/var/tmp", "/root/.cache"],
)
def test_folder_holds_no_files(host, folder):
    if host.file(folder).exists:
        assert host.check_output("find %s -xdev -type f ! -name lock", folder) == ""


def test_no_package_manager_leftovers(host):
    assert find(host, "-path /proc -prune -o -path /usr/share -prune -o -name '*.dpkg-*' -print") == []
    assert find(host, "-path /proc -prune -o -name '*.rpmnew' -print -o -name '*.rpmsave' -print") == []


def test_package_status_stays(host, expected):
    count = {"debian": "dpkg-query --show | wc -l", "redhat": "rpm -qa | wc -l"}
    assert int(host.check_output(count[expected.capabilities["system_family"]])) > 50


def test_no_trace_of_ansible(host):
    assert find(host, "-path /proc -prune -o -iname '*ansible*' -print") == []


def test_no_installation_logs(host):
    logs = "/var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/dnf.log /var/log/dnf.rpm.log"
    assert host.run(f"find {logs} -type f -size +0").stdout == ""


def test_no_history(host):
    assert find(host, "-path /proc -prune -o -name '.*_history' -print") == []


def test_no_secrets(host):
    names = (".netrc", ".git-credentials", "id_rsa", "id_ed25519", "pip.conf")
    options = " -o ".join(f"-name {name} -print" for name in names)
    assert find(host, f"-path /proc -prune -o {options}") == []
    assert find(host, "-path '*/.aws/credentials' -o -path '*/.docker/config.json'") == []


def test_machine_has_no_identity_before_its_first_boot(host, expected):
    booted = expected.capabilities["has_systemd"]
    machine_id = host.file("/etc/machine-id")
    assert booted or not machine_id.exists or machine_id.size == 0
    assert booted or find(host, "-path '/etc/ssh/ssh_host_*'") == []


def test_only_temporary_folders_are_writable_for_all(host):
    assert find(host, "-path /proc -prune -o -type d -perm -0002 ! -perm -1000 -print") == []


def test_no_unexpected_privileges(host):
    found = {
        path.rsplit("/", 1)[-1] for path in find(host, "-path /proc -prune -o -type f -perm /6000 -print")
    }
    assert found - EXPECTED_PRIVILEGED == set()
