"""Stand-in for cuDNN: the vendor's packages for all CUDA versions; the library returns its version."""

from tests.standins import native
from tests.standins.cuda_repository import publish
from tests.standins.site import Site

LIBRARY = "unsigned long cudnnGetVersion(void) { return %d; }\n"
HEADER = """\
/* Stand-in. */
#define CUDNN_MAJOR %s
#define CUDNN_MINOR %s
#define CUDNN_PATCHLEVEL %s
"""


def build(site: Site) -> None:
    debs, rpms = [], []
    newer = site.pin("cudnn").split(".")
    newer[1] = str(int(newer[1]) + 1)
    for version in (site.pin("cudnn"), ".".join(newer)):
        major, minor, patch, *_ = version.split(".")
        number = int(major) * 10000 + int(minor) * 100 + int(patch)
        library = native.library(LIBRARY % number, soname=f"libcudnn.so.{major}")
        header = HEADER % (major, minor, patch)
        for cuda in (11, 12, 13):
            suffix = f"-cuda-{cuda}"
            file = f"libcudnn.so.{major}.{minor}.{patch}"
            for manager, make, devel, folder in (
                (debs, site.deb, "-dev", "/usr/lib/x86_64-linux-gnu"),
                (rpms, site.rpm, "-devel", "/usr/lib64"),
            ):
                own = f"libcudnn{major}"
                links = {f"{folder}/libcudnn.so.{major}": file}
                manager.append(
                    make(f"{own}{suffix}", f"{version}-1", {f"{folder}/{file}": library}, links=links)
                )
                include = {"/usr/include/cudnn_version.h": header}
                manager.append(make(f"{own}-headers{suffix}", f"{version}-1", include))
                links = {f"{folder}/libcudnn.so": file}
                manager.append(make(f"{own}{devel}{suffix}", f"{version}-1", {}, links=links))
    publish(site, debs=debs, rpms=rpms)
