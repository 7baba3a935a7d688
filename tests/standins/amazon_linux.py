"""Stand-in for Amazon Linux 2023: Debian's dnf and rpm with nearly empty packages.

It tests the logic of the roles for Amazon Linux: names, versions, holds, repositories, services, files. It
does not test whether the real packages exist under these names or what they contain.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from builder.model import Bootstrap, System
from tests.standins.site import Content, Site

NAME = "amazon-2023"
HOST = "https://al2023-repos.s3.amazonaws.com"
REPOSITORY, KEY = f"{HOST}/core/", f"{HOST}/RPM-GPG-KEY-amazon-linux-2023"
# Debian packages of the machine: dnf, and programs that roles call but the stand-in's packages lack.
_DEBIAN_PACKAGES = ("bzip2", "dnf", "dnf-plugins-core", "git", "rpm", "unzip", "xz-utils", "zstd")

PROGRAM = "#!/bin/sh\nexit 0\n"
UNIT = "[Unit]\nDescription=Stand-in\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
# Packages that roles install without a version.
PLAIN = (
    *(
        "audit",
        "bzip2",
        "ca-certificates",
        "cmake",
        "environment-modules",
        "ethtool",
        "file",
        "fuse-overlayfs",
        "gawk",
    ),
    *(
        "gcc",
        "gcc-c++",
        "git",
        "glibc-devel",
        "hwloc",
        "hwloc-devel",
        "hwloc-libs",
        "infiniband-diags",
        "iproute",
        "iputils",
    ),
    *(
        "jq",
        "kmod",
        "libcap",
        "less",
        "libibumad",
        "libnl3",
        "libnl3-devel",
        "lsof",
        "make",
        "mdadm",
        "numactl",
    ),
    *("nvme-cli", "openssh-clients", "parallel", "pciutils", "pigz", "procps-ng", "psmisc", "rsync"),
    *(
        "python3-dnf-plugin-versionlock",
        "python3-prometheus_client",
        "squashfs-tools",
        "squashfuse",
        "strace",
    ),
    *("sudo", "tcl", "tzdata", "unzip", "vim-minimal", "xfsprogs", "xz", "zstd", "dkms"),
)
# Maps a component to the packages that have its pinned version.
PINNED: Mapping[str, tuple[str, ...]] = {
    "containerd": ("containerd",),
    "docker": ("docker",),
    "libfabric": ("libfabric",),
    "openmpi": ("openmpi",),
    "rdma_core": ("libibverbs", "libibverbs-utils", "librdmacm", "rdma-core"),
}
# Maps a package to its files that roles need.
FILES: Mapping[str, Mapping[str, Content]] = {
    "audit": {"/usr/lib/systemd/system/auditd.service": UNIT},
    "containerd": {"/usr/lib/systemd/system/containerd.service": UNIT, "/usr/bin/containerd": PROGRAM},
    "docker": {"/usr/lib/systemd/system/docker.service": UNIT, "/usr/bin/dockerd": PROGRAM},
    "jq": {"/usr/bin/jq": PROGRAM},
    "parallel": {"/usr/bin/parallel": PROGRAM},
    "pigz": {"/usr/bin/pigz": PROGRAM},
    "squashfs-tools": {"/usr/bin/mksquashfs": PROGRAM},
    "chrony": {"/usr/lib/systemd/system/chronyd.service": UNIT, "/etc/chrony.conf": "# Stand-in\n"},
}


def pretend(debian: System) -> System:
    """Return the system that roles see, with the Python of the Debian machine."""
    return System(
        name=NAME,
        summary="Amazon Linux 2023, imitated by a Debian machine with dnf",
        distribution="amazon",
        family="redhat",
        release="2023",
        arches=("x86_64",),
        python=debian.python,
    )


def machine(debian: System) -> System:
    """Return the Debian system that the machine is built from."""
    assert debian.bootstrap is not None
    recipe: Bootstrap = dataclasses.replace(
        debian.bootstrap, packages=(*debian.bootstrap.packages, *_DEBIAN_PACKAGES)
    )
    return dataclasses.replace(debian, name=NAME, bootstrap=recipe)


def build(site: Site) -> None:
    rpms = [site.rpm(name, "1.0-1", FILES.get(name, {}), arch="noarch") for name in (*PLAIN, "chrony")]
    for component, names in PINNED.items():
        if component in site.pins:
            version = site.pin(component)
            version = version if "-" in version else f"{version}-1"
            rpms += [site.rpm(name, version, FILES.get(name, {}), arch="noarch") for name in names]
    # An empty package that satisfies dependencies on bash; the machine uses Debian's bash.
    rpms.append(site.rpm("bash", "5.2.15-1", {}, arch="noarch", provides=["/bin/sh", "/bin/bash"]))
    rpms += kernel(site)
    site.rpm_repository(REPOSITORY, rpms, KEY)


def kernel(site: Site) -> list[Path]:
    """Return the packages of the kernel, which have its series in their names."""
    release = site.pin("kernel")
    version = release.rpartition(".")[0]
    series = ".".join(release.split(".")[:2])
    contents = {
        "": {f"/boot/vmlinuz-{release}": "stand-in\n", f"/lib/modules/{release}/modules.builtin": "", **BOOT},
        "-devel": {f"/usr/src/kernels/{release}/Makefile": "all:\n"},
        "-modules-extra": {f"/lib/modules/{release}/extra.list": "\n"},
    }
    return [site.rpm(f"kernel{series}{part}", version, files) for part, files in contents.items()]


BOOT: Mapping[str, Content] = {"/usr/sbin/grubby": PROGRAM, "/usr/bin/dracut": PROGRAM}


def base(site: Site) -> dict[str, Content]:
    """Return the dnf configuration of a machine that uses only the stand-in's repository."""
    url = site.mirrors["https://"] + REPOSITORY.partition("://")[2]
    key = site.mirrors["https://"] + KEY.partition("://")[2]
    source = f"[amazonlinux]\nname=Amazon Linux\nbaseurl={url}\nenabled=1\ngpgcheck=1\ngpgkey={key}\n"
    return {
        "/etc/yum.repos.d/amazonlinux.repo": source,
        "/etc/dnf/vars/releasever": "2023\n",
        "/etc/dnf/plugins/local.conf": "[main]\nenabled=0\n",
    }
