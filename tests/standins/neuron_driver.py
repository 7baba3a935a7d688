"""Stand-in for the Neuron kernel module: sources that dkms compiles, without a device."""

from tests.standins import native
from tests.standins.neuron_packages import archive_version, publish
from tests.standins.site import Site

# Source of the kernel module; tests set SOURCE to code that does not compile.
SOURCE = native.MODULE


def build(site: Site) -> None:
    package = native.dkms_package(
        site,
        "aws-neuronx-dkms",
        archive_version(site, "neuron_driver"),
        name="aws-neuronx",
        module="neuron",
        revision="",
        source=SOURCE,
    )
    publish(site, package)
