"""Stand-in for the Neuron collectives: a library at the path of the real one."""

from tests.standins import native
from tests.standins.neuron_packages import BUILD, archive_version, publish
from tests.standins.site import Site

FOLDER = "/opt/aws/neuron/lib"


def build(site: Site) -> None:
    library = native.library("int ncclStandIn(void) { return 0; }\n", soname="libnccom.so.2")
    package = site.deb(
        "aws-neuronx-collectives",
        archive_version(site, "neuron_collectives", build=BUILD),
        {f"{FOLDER}/libnccom.so.2": library},
        links={f"{FOLDER}/libnccom.so": "libnccom.so.2"},
    )
    publish(site, package)
