"""Stand-in for a release of aws-ofi-nccl: a configure script with the real options, and a real build.

Names, links and exported symbols are those of tests/facts/aws_ofi_nccl.toml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.facts import facts_of
from tests.standins.site import Site

HERE = Path(__file__).parent
RELEASES = "https://github.com/aws/aws-ofi-nccl/releases/download"
MAKEFILE = """\
CXXFLAGS = -O1 -fPIC -shared -isystem @cuda@/include -I@libfabric@/include @gdrcopy@ -DVERSION='"{package}"'
LDLIBS = -L@libfabric@/lib -lfabric -lhwloc
LIBRARIES =
{libraries}
all: $(LIBRARIES)

%.so: %.cpp
\tg++ $(CXXFLAGS) -Wl,--no-as-needed,-soname,$@ -o $@ $< $(LDLIBS)

install: all
\tinstall -d @libdir@ @prefix@/share/aws-ofi-nccl/xml
\tinstall -m 0644 p4d-24xl-topo.xml @prefix@/share/aws-ofi-nccl/xml
\tinstall -m 0755 $(LIBRARIES) @libdir@
{links}
"""
SOURCE = """\
// Stand-in: exports the interfaces that NCCL looks up, and its version.
#include <cstdlib>
#include <cuda_runtime.h>
#include <rdma/fabric.h>
struct interface {{ const char *name; }};
extern "C" {{
extern const char *standin_says;
const char *standin_says = "NET/OFI Initializing aws-ofi-nccl " VERSION;
#if __has_include(<gdrapi.h>)
const char *standin_gdrcopy = "";
#else
const char *standin_gdrcopy = "{without_gdrcopy}";
#endif
unsigned standin_libfabric() {{ return fi_version(); }}
{interfaces}
}}
"""
# Code that is appended to the sources; tests set FLAW to code that does not compile.
FLAW = ""
INTERFACE = 'extern interface {name}; interface {name} = {{"OFI"}};'


def build(site: Site) -> None:
    version = site.pin("aws_ofi_nccl")
    facts = plugin_facts(version)
    folder = f"aws-ofi-nccl-{facts['package']}"
    configure = (HERE / "files/ofi_configure.sh").read_text(encoding="utf-8")
    site.tar(
        f"{RELEASES}/{facts['tag']}/{folder}.tar.gz",
        {
            f"{folder}/configure": configure.replace("@missing_cuda@", facts["missing_cuda"]),
            f"{folder}/Makefile.in": _makefile(facts),
            f"{folder}/p4d-24xl-topo.xml": "<system/>\n",
            **{
                f"{folder}/{name.removesuffix('.so')}.cpp": _source(facts, name) + FLAW
                for name in facts["files"]
            },
        },
    )


def plugin_facts(version: str) -> dict[str, Any]:
    """Return the facts of a release, with its version filled in."""
    version = version.removesuffix("-aws")
    facts = facts_of("aws_ofi_nccl", version)
    return facts | {key: facts[key].format(version=version) for key in ("tag", "package")}


def symbols(facts: Mapping[str, Any], name: str) -> list[str]:
    """Return the interfaces that a library of the release exports."""
    return [f"nccl{kind.title()}Plugin_v{number}" for kind in facts["files"][name] for number in facts[kind]]


def _makefile(facts: Mapping[str, Any]) -> str:
    links = {name: f"\tln -sf {target} @libdir@/{name}" for name, target in facts["links"].items()}
    libraries = {name: f"LIBRARIES += {name}" for name in facts["files"]}
    return MAKEFILE.format(
        package=facts["package"], libraries=_if_wanted(libraries, facts), links=_if_wanted(links, facts)
    )


def _if_wanted(lines: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """Return Makefile lines for libraries, each with the configure option that it depends on."""
    options = {name: "@platform_aws@" for name in lines if "tuner" in name}
    if "libnccl-net-ofi.so" in facts["files"]:
        options["libnccl-net.so"] = "@symlink@"
    return "\n".join(f"ifeq ({options.get(name, 'yes')},yes)\n{line}\nendif" for name, line in lines.items())


def _source(facts: Mapping[str, Any], name: str) -> str:
    interfaces = "\n".join(INTERFACE.format(name=symbol) for symbol in symbols(facts, name))
    return SOURCE.format(interfaces=interfaces, without_gdrcopy=facts["without_gdrcopy"])
