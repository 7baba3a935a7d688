"""Nothing of the build stays, and nothing that must differ between machines.

A machine that was started has made an identity of its own; an image, and a machine that has just been swept,
has none. What is neither is what these checks are for.
"""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[1]
# What no pattern may reach: installations of the vendor, sources that modules are compiled from.
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
    "nvidia-modprobe",  # makes the device files for whoever is first to use a GPU
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
    # apt writes its index anew when it is asked something, which checks do.
    if host.file(folder).exists:
        assert host.check_output("find %s -xdev -type f ! -name lock ! -name '*pkgcache.bin'", folder) == ""


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


@pytest.fixture(scope="module")
def was_started(host):
    """Whether this machine has an identity, which comes into being when it starts."""
    machine_id = host.file("/etc/machine-id")
    return machine_id.exists and machine_id.size > 0


def test_container_has_no_identity(expected, was_started):
    assert expected.capabilities["has_systemd"] or not was_started


def test_identity_is_whole_or_not_there(host, was_started):
    keys = find(host, "-path '/etc/ssh/ssh_host_*_key'")
    assert bool(keys) is (was_started and host.file("/etc/ssh/sshd_config").exists)
    assert not was_started or len(host.file("/etc/machine-id").content_string.strip()) == 32


def test_keys_were_made_after_the_identity(host, was_started):
    # A machine gets its number first. A key that is older came with the image, and all its machines have it.
    assert not was_started or find(host, "-path '/etc/ssh/ssh_host_*' ! -newer /etc/machine-id") == []


def test_nobody_gets_in_with_a_key_of_the_build(host, was_started):
    # At its first start a machine is given the key of whoever started it.
    for path in find(host, "-path '*/.ssh/authorized_keys' -size +0"):
        keys = [line for line in host.file(path).content_string.splitlines() if line.strip()]
        assert len(keys) <= was_started, path


def test_first_start_is_yet_to_come(host, was_started):
    if not was_started:
        for folder in ("/var/lib/cloud", "/var/lib/amazon/ssm", "/var/lib/dhcp", "/var/lib/dhclient"):
            assert host.run("find %s -type f -size +0", folder).stdout == ""


def test_logs_tell_nothing_of_the_build(host, was_started):
    # What services write between the sweep and the end goes to the journal.
    if not was_started:
        assert find(host, "-path '/var/log/*' ! -path '/var/log/journal/*' -type f -size +0") == []


def test_sources_of_modules_stay(host):
    # DKMS compiles for the next kernel from what these lead to.
    assert host.run("find /var/lib/dkms -maxdepth 3 -name source -xtype l").stdout == ""


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_no_pattern_reaches_what_has_to_stay(family):
    patterns = []
    for name in ("main", family):
        table = yaml.safe_load((ROLE / "vars" / f"{name}.yml").read_text(encoding="utf-8"))
        patterns += [pattern for listed in table.values() for pattern in listed]
    reaching = [
        (pattern, str(place))
        for pattern in patterns
        for kept in KEPT
        for place in (Path(kept), *Path(kept).parents[:-1])
        if place.match(pattern) or fnmatch(str(place), pattern.replace("**/", "*"))
    ]
    assert reaching == []


def test_there_is_room_on_the_disk(host):
    assert int(host.check_output("df --output=avail --block-size=1M / | tail -n 1")) >= 1024


def test_only_temporary_folders_are_writable_for_all(host):
    assert find(host, "-path /proc -prune -o -type d -perm -0002 ! -perm -1000 -print") == []


def test_no_unexpected_privileges(host):
    found = {
        path.rsplit("/", 1)[-1] for path in find(host, "-path /proc -prune -o -type f -perm /6000 -print")
    }
    assert found - EXPECTED_PRIVILEGED == set()
