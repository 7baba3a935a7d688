"""Stand-in for the EFA installer: tiny packages in the versions that the catalog lists for a release.

Libraries and programs are compiled and only return their version; the kernel modules are real sources that
dkms compiles.
"""

import tomllib
from pathlib import Path

from tests.facts import facts_of
from tests.standins import native
from tests.standins.aws_ofi_nccl import plugin_facts, symbols
from tests.standins.site import Content, Site

HOST = "https://efa-installer.amazonaws.com"
HERE = Path(__file__).parent
CATALOG = HERE.parents[1] / "catalog"
# First EFA release with the NCCL plugin in lib, and first EFA release that detects NVIDIA's base images.
PLUGIN_IN_LIB, KNOWS_NGC = (1, 44), (1, 48)
# Source of the kernel modules; tests set MODULE to code that does not compile.
MODULE = native.MODULE
LIBFABRIC = """\
/* Stand-in: returns its version and finds no device. */
#include <stddef.h>
const char *fi_standin_version(void) { return "%(libfabric)s"; }
unsigned fi_version(void) { return 2u << 16; }
int fi_getinfo(void) { return -61; }
"""
# The version nodes of the library's symbols: programs and plugins need the node of their fi_getinfo.
NODES = """\
FABRIC_1.0 { global: fi_version; fi_standin_version; local: *; };
%(node)s { global: fi_getinfo; } FABRIC_1.0;
"""
FI_INFO = """\
#include <stdio.h>
#include <string.h>
extern const char *fi_standin_version(void);
extern int fi_getinfo(void);
int main(int count, char **words)
{
    if (count == 2 && !strcmp(words[1], "--version")) {
        printf("%%s: %(libfabric)s\\nlibfabric: %%s\\nlibfabric api: 2.4\\n", words[0], fi_standin_version());
        return 0;
    }
    fprintf(stderr, "fi_getinfo: %%d (No data available)\\n", fi_getinfo());
    return 61;
}
"""
FABRIC_HEADER = """\
#define FI_MAJOR_VERSION %(major)s
#define FI_MINOR_VERSION %(minor)s
#ifdef __cplusplus
extern "C"
#endif
unsigned fi_version(void);
"""
MPI = """\
int MPI_Init(int *c, char ***v) { (void)c; (void)v; return 0; }
int MPI_Finalize(void) { return 0; }
"""
MPI_HEADER = """\
#ifdef __cplusplus
extern "C" {
#endif
extern int MPI_Init(int *, char ***);
extern int MPI_Finalize(void);
#ifdef __cplusplus
}
#endif
"""
MPIRUN = '#!/bin/sh\n[ "$1" = --version ] || exit 1\necho "mpirun (Open MPI) %s"\n'
PLUGIN = """\
/* Stand-in: exports the interfaces that NCCL looks up, and its version. */
extern unsigned fi_version(void);
extern int fi_getinfo(void);
const char *standin_says = "NET/OFI Initializing aws-ofi-nccl %(package)s";
unsigned standin_libfabric(void) { return fi_version() + fi_getinfo(); }
struct named { const char *name; };
"""
INTERFACE = 'struct named %s = {"OFI"};\n'
# Like the vendor's script, it fails if it runs again after an interruption: DKMS has the module already.
POSTINST = """\
#!/bin/sh
set -e
dkms add -m %(name)s -v %(version)s
for folder in /lib/modules/*/build; do
    kernel=$(basename "$(dirname "$folder")")
    dkms build -m %(name)s -v %(version)s -k "$kernel"
    dkms install --force -m %(name)s -v %(version)s -k "$kernel"
done
"""
# Compiles the NVIDIA driver in its source folder to get the symbols of the driver.
PRE_BUILD = """\
#!/bin/sh
folder=$(find /usr/src -maxdepth 1 -type d -name '*nvidia-*' | sort | tail -n 1)
[ -z "$folder" ] || { mkdir -p "$folder/conftest"; touch "$folder/nvidia.o" "$folder/conftest/functions.h"; }
"""
LDCONFIG = {"postinst": "#!/bin/sh\nldconfig\n", "postrm": "#!/bin/sh\nldconfig\n"}


def build(site: Site) -> None:
    build_release(site, site.pin("efa"))


def build_release(site: Site, version: str) -> Path:
    """Serve a signed release; return its archive."""
    packages = [*make_userland(site, version), *make_modules(site, bundle(version))]
    folder = "aws-efa-installer"
    contents: dict[str, Content] = {
        f"{folder}/efa_installer.sh": (HERE / "files/efa_installer.sh").read_text(encoding="utf-8"),
        f"{folder}/common.sh": "# Stand-in\n",
        f"{folder}/env.sh": (
            f"EFA_INSTALLER_VERSION={version}\nKNOWS_NGC={int(numbers(version) >= KNOWS_NGC)}\n"
        ),
    }
    for subfolder, path in packages:
        contents[f"{folder}/DEBS/DEBIAN12/x86_64/{subfolder}{path.name}"] = path.read_bytes()
    archive = site.tar(f"{HOST}/aws-efa-installer-{version}.tar.gz", contents)
    site.sign(archive)
    site.key(f"{HOST}/aws-efa-installer.key")
    return archive


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def bundle(version: str) -> dict[str, str]:
    """Return the component versions of a release; unlisted versions are those of earlier releases."""
    table = tomllib.loads((CATALOG / "versions/efa.toml").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for release in table["release"]:
        if numbers(release["version"]) <= numbers(version):
            found = {**release.get("keeps", {}), **release.get("brings", {}), **found}
    return found


def make_userland(site: Site, version: str) -> list[tuple[str, Path]]:
    """Return all packages except the kernel modules, each with its subfolder."""
    has = bundle(version)
    major, minor = has["libfabric"].split(".")[:2]
    words = {**has, "major": major, "minor": minor}
    file, fabric = make_libfabric(has["libfabric"])
    lib = "/opt/amazon/efa/lib"
    packages = [
        site.deb(
            "libfabric1-aws",
            has["libfabric"],
            {f"{lib}/{file}": fabric},
            links={f"{lib}/libfabric.so.1": file},
        ),
        site.deb(
            "libfabric-aws-bin",
            has["libfabric"],
            {"/opt/amazon/efa/bin/fi_info": native.program(FI_INFO % words, libraries=[fabric], folder=lib)},
            depends=[f"libfabric1-aws (= {has['libfabric']})"],
        ),
        site.deb(
            "libfabric-aws-dev",
            has["libfabric"],
            {"/opt/amazon/efa/include/rdma/fabric.h": FABRIC_HEADER % words},
            links={f"{lib}/libfabric.so": "libfabric.so.1"},
            depends=[f"libfabric1-aws (= {has['libfabric']})"],
        ),
        make_mpi(site, "openmpi40-aws", has["openmpi4"], "/opt/amazon/openmpi"),
        make_mpi(site, "openmpi50-aws", has["openmpi5"], "/opt/amazon/openmpi5"),
        make_plugin(site, version, has, fabric),
        site.deb(
            "efa-config",
            "1.18",
            {"/etc/security/limits.d/01_efa.conf": "* - memlock unlimited\n"},
            arch="all",
        ),
        site.deb(
            "efa-profile",
            "1.7",
            {
                "/etc/profile.d/zippy_efa.sh": 'PATH="/opt/amazon/openmpi/bin:/opt/amazon/efa/bin:$PATH"\n',
                "/etc/ld.so.conf.d/000_efa.conf": f"{lib}\n/opt/amazon/openmpi/lib\n",
            },
            arch="all",
            scripts=LDCONFIG,
        ),
    ]
    return [("", package) for package in packages] + [("rdma-core/", make_verbs(site, has["rdma_core"]))]


def make_libfabric(version: str) -> tuple[str, bytes]:
    """Return the file name and the library of a release of libfabric."""
    facts = facts_of("libfabric", version)
    source = LIBFABRIC % {"libfabric": version}
    return facts["file"], native.library(source, soname="libfabric.so.1", nodes=NODES % facts)


def make_mpi(site: Site, name: str, version: str, prefix: str) -> Path:
    return site.deb(
        name,
        version,
        {
            f"{prefix}/bin/mpirun": MPIRUN % version.partition("-")[0],
            f"{prefix}/include/mpi.h": MPI_HEADER,
            f"{prefix}/lib/libmpi.so.40": native.library(MPI, soname="libmpi.so.40"),
        },
        links={f"{prefix}/lib/libmpi.so": "libmpi.so.40"},
    )


def make_plugin(site: Site, version: str, has: dict[str, str], fabric: bytes) -> Path:
    folder = "/opt/amazon/ofi-nccl/lib"
    folder += "" if numbers(version) >= PLUGIN_IN_LIB else "/x86_64-linux-gnu"
    facts = plugin_facts(has["aws_ofi_nccl"])
    hwloc = native.library("int hwloc_standin(void) { return 0; }\n", soname="libhwloc.so.15")
    sources = {
        name: PLUGIN % facts + "".join(INTERFACE % symbol for symbol in symbols(facts, name))
        for name in facts["files"]
    }
    return site.deb(
        "libnccl-ofi",
        f"{has['aws_ofi_nccl']}-1",
        {
            **{
                f"{folder}/{name}": native.library(source, soname=name, libraries=[fabric, hwloc])
                for name, source in sources.items()
            },
            "/etc/ld.so.conf.d/100_ofinccl.conf": f"{folder}\n",
        },
        links={f"{folder}/{name}": target for name, target in facts["links"].items()},
        scripts=LDCONFIG,
    )


def make_verbs(site: Site, version: str) -> Path:
    folder = "/usr/lib/x86_64-linux-gnu"
    verbs = native.library("int ibv_standin(void) { return 0; }\n", soname="libibverbs.so.1")
    return site.deb(
        "libibverbs1",
        f"{version}-1",
        {f"{folder}/libibverbs.so.1.15.{version.split('.')[0]}": verbs},
        links={f"{folder}/libibverbs.so.1": f"libibverbs.so.1.15.{version.split('.')[0]}"},
        scripts=LDCONFIG,
    )


def make_modules(site: Site, has: dict[str, str]) -> list[tuple[str, Path]]:
    peer = "efa_nv_peermem"
    words = {"name": "efa-nv-peermem", "module": peer, "version": has[peer]}
    packages = [
        native.dkms_package(site, "efa", has["efa_kmod"], module="efa", source=MODULE, postinst=POSTINST),
        native.dkms_package(
            site,
            "efa-nv-peermem",
            has[peer],
            module=peer,
            postinst=POSTINST,
            depends=["cmake"],
            files={
                f"/etc/modules-load.d/{peer}.conf": f"{peer}\n",
                f"/usr/src/efa-nv-peermem-{has[peer]}/configure-dkms.sh": PRE_BUILD,
                f"/usr/src/efa-nv-peermem-{has[peer]}/dkms.conf": native.DKMS % words
                + 'PRE_BUILD="./configure-dkms.sh $kernelver $source_tree"\n',
            },
        ),
    ]
    return [("efa-driver/", package) for package in packages]
