"""Stand-in for the Neuron collectives: a library at the path of the real one."""

from tests.standins import native
from tests.standins.neuron_packages import BUILD, archive_version, publish
from tests.standins.site import Site

FOLDER = "/opt/aws/neuron/lib"


def build(site: Site) -> None:
    library = native.library("int standin(void) { return 0; }\n", soname="libnccom.so.2")
    file = f"libnccom.so.{site.pin('neuron_collectives')}"
    package = site.deb(
        "aws-neuronx-collectives",
        archive_version(site, "neuron_collectives", build=BUILD),
        {f"{FOLDER}/{file}": library},
        links={f"{FOLDER}/libnccom.so": "libnccom.so.2", f"{FOLDER}/libnccom.so.2": file},
    )
    publish(site, package)
