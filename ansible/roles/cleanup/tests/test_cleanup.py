"""Checks that no leftovers of the build and no machine identity remain.

A started machine has a complete identity; an image and a machine that was just cleaned have none. A partial
identity fails.
"""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[1]
# Files that no cleanup pattern may match: vendors' installations and sources of kernel modules.
KEPT = (
    "/opt/amazon/efa/bin/fi_info",
    "/opt/amazon/openmpi/bin/mpirun",
    "/opt/aws/neuron/bin/neuron-ls",
    "/usr/src/nvidia-1/dkms.conf",
    "/var/lib/dkms/nvidia/1/source",
    "/lib/modules/1/updates/dkms/nvidia.ko",
    "/boot/vmlinuz-1",
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/home/ml/.ssh/config",
)

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
    "nvidia-modprobe",  # creates the device files of GPUs for any user
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
def test_cache_or_temporary_folder_is_empty(host, folder):
    # The queries of other checks make apt write its cache again.
    if host.file(folder).exists:
        assert host.check_output("find %s -xdev -type f ! -name lock ! -name '*pkgcache.bin'", folder) == ""


def test_no_package_manager_leftovers_remain(host):
    assert find(host, "-path /proc -prune -o -path /usr/share -prune -o -name '*.dpkg-*' -print") == []
    assert find(host, "-path /proc -prune -o -name '*.rpmnew' -print -o -name '*.rpmsave' -print") == []


def test_package_database_is_kept(host, expected):
    count = {"debian": "dpkg-query --show | wc -l", "redhat": "rpm -qa | wc -l"}
    assert int(host.check_output(count[expected.capabilities["system_family"]])) > 50


def test_no_ansible_files_remain(host):
    assert find(host, "-path /proc -prune -o -iname '*ansible*' -print") == []


def test_no_installation_logs_remain(host):
    logs = "/var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/dnf.log /var/log/dnf.rpm.log"
    assert host.run(f"find {logs} -type f -size +0").stdout == ""


def test_no_shell_history_remains(host):
    assert find(host, "-path /proc -prune -o -name '.*_history' -print") == []


def test_no_secrets_remain(host):
    names = (".netrc", ".git-credentials", "id_rsa", "id_ed25519", "pip.conf")
    options = " -o ".join(f"-name {name} -print" for name in names)
    assert find(host, f"-path /proc -prune -o {options}") == []
    assert find(host, "-path '*/.aws/credentials' -o -path '*/.docker/config.json'") == []


@pytest.fixture(scope="module")
def was_started(host):
    """Return True if the machine has an identity, which is created at boot."""
    machine_id = host.file("/etc/machine-id")
    return machine_id.exists and machine_id.size > 0


def test_container_has_no_machine_id(expected, was_started):
    assert expected.capabilities["has_systemd"] or not was_started


def test_identity_is_complete_or_absent(host, was_started):
    keys = find(host, "-path '/etc/ssh/ssh_host_*_key'")
    assert bool(keys) is (was_started and host.file("/etc/ssh/sshd_config").exists)
    assert not was_started or len(host.file("/etc/machine-id").content_string.strip()) == 32


def test_host_keys_are_newer_than_the_machine_id(host, was_started):
    # The machine ID is created before the keys: an older key is from the image and shared by all its
    # machines.
    assert not was_started or find(host, "-path '/etc/ssh/ssh_host_*' ! -newer /etc/machine-id") == []


def test_no_authorized_key_of_the_build_remains(host, was_started):
    # The first boot of an instance adds one key, that of the user who launched it.
    for path in find(host, "-path '*/.ssh/authorized_keys' -size +0"):
        keys = [line for line in host.file(path).content_string.splitlines() if line.strip()]
        assert len(keys) <= was_started, path


def test_image_has_no_first_boot_state(host, was_started):
    if not was_started:
        for folder in ("/var/lib/cloud", "/var/lib/amazon/ssm", "/var/lib/dhcp", "/var/lib/dhclient"):
            assert host.run("find %s -type f -size +0", folder).stdout == ""


def test_logs_are_empty(host, was_started):
    # Services that run after the cleanup log to the journal.
    if not was_started:
        assert find(host, "-path '/var/log/*' ! -path '/var/log/journal/*' -type f -size +0") == []


def test_dkms_sources_are_kept(host):
    # DKMS needs the targets of the links named source to compile modules for the next kernel.
    assert host.run("find /var/lib/dkms -maxdepth 3 -name source -xtype l").stdout == ""


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_cleanup_patterns_match_no_required_file(family):
    patterns = []
    for name in ("main", family):
        table = yaml.safe_load((ROLE / "vars" / f"{name}.yml").read_text(encoding="utf-8"))
        patterns += [pattern for listed in table.values() for pattern in listed]
    matches = [
        (pattern, str(path))
        for pattern in patterns
        for kept in KEPT
        for path in (Path(kept), *Path(kept).parents[:-1])
        if path.match(pattern) or fnmatch(str(path), pattern.replace("**/", "*"))
    ]
    assert matches == []


def test_disk_has_free_space(host):
    assert int(host.check_output("df --output=avail --block-size=1M / | tail -n 1")) >= 1024


def test_only_sticky_folders_are_world_writable(host):
    assert find(host, "-path /proc -prune -o -type d -perm -0002 ! -perm -1000 -print") == []


def test_no_unexpected_setuid_programs(host):
    found = {
        path.rsplit("/", 1)[-1] for path in find(host, "-path /proc -prune -o -type f -perm /6000 -print")
    }
    assert found - EXPECTED_PRIVILEGED == set()
