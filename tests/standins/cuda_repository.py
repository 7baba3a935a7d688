"""Repositories for stand-ins of NVIDIA's packages: one for each system, all signed by the same key."""

from collections.abc import Sequence
from pathlib import Path

from tests.standins.site import Site

REPOSITORIES = "https://developer.download.nvidia.com/compute/cuda/repos"
APT = ("debian12", "ubuntu2204", "ubuntu2404")
YUM = ("amzn2023",)


def driver_version(site: Site) -> str:
    """Return the version of the driver without the package revision."""
    return site.pin("nvidia_driver").partition("-")[0]


def branch_of(version: str) -> int:
    return int(version.partition(".")[0])


def publish(site: Site, *, debs: Sequence[Path], rpms: Sequence[Path] = ()) -> None:
    """Add packages to the repositories of all systems."""
    for name in APT:
        url = f"{REPOSITORIES}/{name}/x86_64/"
        site.apt_repository(url, debs, f"{url}3bf863cc.pub")
    for name in YUM:
        url = f"{REPOSITORIES}/{name}/x86_64/"
        site.rpm_repository(url, rpms, f"{url}D42D0685.pub")
