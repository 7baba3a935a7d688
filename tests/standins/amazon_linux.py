"""Stand-in for Amazon Linux 2023: dnf and rpm are Debian's, the distribution's packages are next to empty.

So the roles' own logic for this family runs for real: names, versions, holds, repositories, services, files.
What the distribution's packages really hold, and whether they exist under these names, is not proven.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from builder.model import Bootstrap, System
from tests.standins.site import Content, Site

NAME = "amazon-2023"
HOST = "https://al2023-repos.s3.amazonaws.com"
REPOSITORY, KEY = f"{HOST}/core/", f"{HOST}/RPM-GPG-KEY-amazon-linux-2023"
# What a machine of Debian needs to be taken for one with dnf, and programs that roles call while the packages
# that would bring them are empty.
_BENEATH = ("bzip2", "dnf", "dnf-plugins-core", "git", "rpm", "unzip", "xz-utils", "zstd")

PROGRAM = "#!/bin/sh\nexit 0\n"
UNIT = "[Unit]\nDescription=Stand-in\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
# Packages that roles ask for by name alone.
PLAIN = (
    *(
        "audit",
        "bzip2",
        "ca-certificates",
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
# Packages of the version that a component is pinned to.
PINNED: Mapping[str, tuple[str, ...]] = {
    "containerd": ("containerd",),
    "docker": ("docker",),
    "libfabric": ("libfabric",),
    "openmpi": ("openmpi",),
    "rdma_core": ("libibverbs", "libibverbs-utils", "librdmacm", "rdma-core"),
}
# What roles use of a package, where it has to be there for them to go on.
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
    """The system that roles see; its Python is that of the machine beneath."""
    return System(
        name=NAME,
        summary="Amazon Linux 2023, played by a machine of Debian with dnf",
        distribution="amazon",
        family="redhat",
        release="2023",
        arches=("x86_64",),
        python=debian.python,
    )


def machine(debian: System) -> System:
    """The system that the machine is made of."""
    assert debian.bootstrap is not None
    recipe: Bootstrap = dataclasses.replace(
        debian.bootstrap, packages=(*debian.bootstrap.packages, *_BENEATH)
    )
    return dataclasses.replace(debian, name=NAME, bootstrap=recipe)


def build(site: Site) -> None:
    rpms = [site.rpm(name, "1.0-1", FILES.get(name, {}), arch="noarch") for name in (*PLAIN, "chrony")]
    for component, names in PINNED.items():
        if component in site.pins:
            version = site.pin(component)
            version = version if "-" in version else f"{version}-1"
            rpms += [site.rpm(name, version, FILES.get(name, {}), arch="noarch") for name in names]
    # The shell is the machine's own; packages of vendors only have to find that somebody has it.
    rpms.append(site.rpm("bash", "5.2.15-1", {}, arch="noarch", provides=["/bin/sh", "/bin/bash"]))
    rpms += kernel(site)
    site.rpm_repository(REPOSITORY, rpms, KEY)


def kernel(site: Site) -> list[Path]:
    """The packages of the kernel, which carry its series in their names."""
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
    """A machine whose packages come from the stand-in alone."""
    here = site.mirrors["https://"] + REPOSITORY.partition("://")[2]
    key = site.mirrors["https://"] + KEY.partition("://")[2]
    source = f"[amazonlinux]\nname=Amazon Linux\nbaseurl={here}\nenabled=1\ngpgcheck=1\ngpgkey={key}\n"
    return {
        "/etc/yum.repos.d/amazonlinux.repo": source,
        "/etc/dnf/vars/releasever": "2023\n",
        "/etc/dnf/plugins/local.conf": "[main]\nenabled=0\n",
    }
