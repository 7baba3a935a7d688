"""What the stand-ins for Neuron share: one signed repository, and versions as its archive spells them."""

from pathlib import Path

from tests.standins.site import Site

REPOSITORY = "https://apt.repos.neuron.amazonaws.com"
BUILD = "-0123456789ab"


def archive_version(site: Site, component: str, *, build: str = "") -> str:
    """The three numbers of a release, a fourth, and for some packages the build."""
    return f"{site.pin(component)}.0{build}"


def publish(site: Site, *packages: Path) -> None:
    """Adds packages to what the repository has already."""
    site.apt_repository(
        REPOSITORY,
        packages,
        f"{REPOSITORY}/GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB",
        suite="bookworm",
        components=["main"],
    )
