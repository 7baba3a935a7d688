"""The names of a processor architecture: the catalog's, and those of Linux, Debian, NVIDIA and Python wheels.

Must not know what is built for which architecture. Only `of_this_machine` asks the machine it runs on.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Arch:
    """One architecture under all its names."""

    name: str  # in the catalog, and in EC2
    uname: str  # what Linux and RPM call it
    deb: str  # what Debian, Docker and OCI call it
    repo: str  # what NVIDIA's repositories call it

    @property
    def placeholders(self) -> dict[str, str]:
        """The words that templates of addresses may name."""
        return {"uname_arch": self.uname, "deb_arch": self.deb, "repo_arch": self.repo}

    @property
    def wheel_platforms(self) -> tuple[str, ...]:
        """The tags of wheels that run on every system of the catalog."""
        return tuple(f"{name}_{self.uname}" for name in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"))


ARCHES: Mapping[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch(name="x86_64", uname="x86_64", deb="amd64", repo="x86_64"),
        Arch(name="arm64", uname="aarch64", deb="arm64", repo="sbsa"),
    )
}
_BY_WORD: Mapping[str, Arch] = {word: arch for arch in ARCHES.values() for word in (arch.uname, arch.deb)}


def find(word: str) -> Arch | None:
    """The architecture that Linux, Debian or OCI call by this word."""
    return _BY_WORD.get(word.lower())


def of_this_machine() -> str:
    """The catalog's name of this machine's architecture; that of Linux for one that the catalog lacks."""
    found = find(platform.machine())
    return found.name if found else platform.machine().lower()
