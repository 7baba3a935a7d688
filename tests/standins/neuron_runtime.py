"""Stand-in for the Neuron runtime: a library at the path of the real one."""

from tests.standins import native
from tests.standins.neuron_packages import BUILD, archive_version, publish
from tests.standins.site import Site

FOLDER = "/opt/aws/neuron/lib"


def build(site: Site) -> None:
    library = native.library("int nrt_init(void) { return 1; }\n", soname="libnrt.so.1")
    file = f"libnrt.so.{site.pin('neuron_runtime')}.0"
    package = site.deb(
        "aws-neuronx-runtime-lib",
        archive_version(site, "neuron_runtime", build=BUILD),
        {f"{FOLDER}/{file}": library},
        links={f"{FOLDER}/libnrt.so": "libnrt.so.1", f"{FOLDER}/libnrt.so.1": file},
    )
    publish(site, package)
