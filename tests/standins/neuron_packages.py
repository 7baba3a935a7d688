"""Shared code of the Neuron stand-ins: a signed repository and full package versions."""

from pathlib import Path

from tests.standins.site import Site

REPOSITORY = "https://apt.repos.neuron.amazonaws.com"
BUILD = "-0123456789ab"


def archive_version(site: Site, component: str, *, build: str = "") -> str:
    """Return the full version of a package: the pinned version, a fourth part and an optional build id."""
    return f"{site.pin(component)}.0{build}"


def publish(site: Site, *packages: Path) -> None:
    """Serve packages in the signed apt repository of Neuron."""
    site.apt_repository(
        REPOSITORY,
        packages,
        f"{REPOSITORY}/GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB",
        suite="bookworm",
        components=["main"],
    )
