"""Stand-in for a release of aws-ofi-nccl: a configure script with the real options, and a real build."""

from pathlib import Path

from tests.standins.site import Site

HERE = Path(__file__).parent
RELEASES = "https://github.com/aws/aws-ofi-nccl/releases/download"
# First release that builds each library under both names; in earlier releases the second name is a link.
BOTH_NAMES = (1, 17)
MAKEFILE = """\
CXXFLAGS = -O1 -fPIC -shared -I@cuda@/include -I@libfabric@/include -DVERSION='"{version}"'
LDLIBS = -L@libfabric@/lib -lfabric -lhwloc
NET = libnccl-net-ofi.so
TUNER =
ifeq (@platform_aws@,yes)
TUNER += libnccl-ofi-tuner.so
endif
{both_names}
all: $(NET) $(TUNER)

$(NET): net.cpp
$(TUNER): tuner.cpp
$(NET) $(TUNER):
\tg++ $(CXXFLAGS) -Wl,--no-as-needed,-soname,$@ -o $@ $< $(LDLIBS)

install: all
\tinstall -d @libdir@ @prefix@/share/aws-ofi-nccl/xml
\tinstall -m 0644 p4d-24xl-topo.xml @prefix@/share/aws-ofi-nccl/xml
\tinstall -m 0755 $(NET) $(TUNER) @libdir@
{links}
"""
LIBRARIES = """\
ifeq (@symlink@,yes)
NET += libnccl-net.so
endif
ifeq (@platform_aws@,yes)
TUNER += libnccl-tuner-ofi.so
endif
"""
LINKS = """\
ifeq (@symlink@,yes)
\tln -sf libnccl-net-ofi.so @libdir@/libnccl-net.so
endif
ifeq (@platform_aws@,yes)
\tln -sf libnccl-ofi-tuner.so @libdir@/libnccl-tuner-ofi.so
endif
"""
SOURCE = """\
// Stand-in: exports the interfaces that NCCL looks up, and its version.
#include <cuda_runtime.h>
#include <rdma/fabric.h>
struct interface {{ const char *name; }};
extern "C" {{
extern const char *standin_says;
const char *standin_says = "NET/OFI Initializing aws-ofi-nccl " VERSION;
unsigned standin_libfabric() {{ return fi_version(); }}
{interfaces}
}}
"""
# Code that is appended to the sources; tests set FLAW to code that does not compile.
FLAW = ""
INTERFACE = 'extern interface {name}; interface {name} = {{"OFI"}};'


def build(site: Site) -> None:
    version = site.pin("aws_ofi_nccl")
    folder = f"aws-ofi-nccl-{version}"
    site.tar(
        f"{RELEASES}/v{version}/{folder}.tar.gz",
        {
            f"{folder}/configure": (HERE / "files/ofi_configure.sh").read_text(encoding="utf-8"),
            f"{folder}/Makefile.in": _makefile(version),
            f"{folder}/net.cpp": source("ncclNetPlugin_v", (9, 10, 11)) + FLAW,
            f"{folder}/tuner.cpp": source("ncclTunerPlugin_v", (2, 3)),
            f"{folder}/p4d-24xl-topo.xml": "<system/>\n",
        },
    )


def has_both_names(version: str) -> bool:
    return tuple(map(int, version.split("."))) >= BOTH_NAMES


def _makefile(version: str) -> str:
    both = has_both_names(version)
    return MAKEFILE.format(version=version, both_names=LIBRARIES if both else "", links="" if both else LINKS)


def source(name: str, versions: tuple[int, ...]) -> str:
    return SOURCE.format(
        interfaces="\n".join(INTERFACE.format(name=f"{name}{version}") for version in versions)
    )
