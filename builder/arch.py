"""Names of processor architectures in the catalog, Linux, Debian, NVIDIA repositories and Python wheels.

Does not decide the architectures of targets. Only `of_this_machine` reads the host's architecture.
"""

import os
from collections.abc import Mapping

from builder.values import dataclass

_OLDEST_GLIBC = 34  # minor version of the oldest glibc in the catalog, that of Amazon Linux 2023


@dataclass(frozen=True, kw_only=True, slots=True)
class Arch:
    """Names of one processor architecture in all naming schemes."""

    name: str  # the name in the catalog and in EC2
    uname: str  # the name in Linux and RPM
    deb: str  # the name in Debian, Docker and OCI
    repo: str  # the name in NVIDIA's package repositories

    @property
    def placeholders(self) -> dict[str, str]:
        """Return the values of the architecture placeholders in URL templates."""
        return {"uname_arch": self.uname, "deb_arch": self.deb, "repo_arch": self.repo}

    @property
    def wheel_platforms(self) -> tuple[str, ...]:
        """Return the platform tags of wheels that run on every system of the catalog."""
        glibc = (f"manylinux_2_{minor}" for minor in range(17, _OLDEST_GLIBC + 1))
        return tuple(f"{name}_{self.uname}" for name in ("manylinux2014", *glibc))


ARCHES: Mapping[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch(name="x86_64", uname="x86_64", deb="amd64", repo="x86_64"),
        Arch(name="arm64", uname="aarch64", deb="arm64", repo="sbsa"),
    )
}
_BY_WORD: Mapping[str, Arch] = {word: arch for arch in ARCHES.values() for word in (arch.uname, arch.deb)}


def find(word: str) -> Arch | None:
    """Return the architecture with this name in Linux, Debian or OCI."""
    return _BY_WORD.get(word.lower())


def of_this_machine() -> str:
    """Return the catalog's name of this host's architecture, or the Linux name if the catalog has none."""
    found = find(os.uname().machine)
    return found.name if found else os.uname().machine.lower()
