"""Stand-in for the CUDA toolkits in the vendor's repositories. Debian's own CUDA packages need no stand-in.

Paths and alternatives are the vendor's. The compiler ignores GPU code, and the runtime finds no device.
"""

from tests.standins import native
from tests.standins.cuda_repository import publish
from tests.standins.site import Site

NVCC = """\
#!/bin/bash
set -eu
root=$(dirname "$(dirname "$(readlink -f "$0")")")
if [ "$1" = --version ]; then
    echo 'Cuda compilation tools, release {release}, V{version} (stand-in)'
    exit 0
fi
[ "$1" = --cudart ] && shift 2
exec g++ -x c++ -include cuda_runtime.h -I"$root/include" -o "$2" "$3" -x none -L"$root/lib64" -lcudart
"""
HEADER = """\
/* Stand-in. */
#pragma once
#define CUDART_VERSION {number}
#define __global__
typedef int cudaError_t;
static struct {{ int x; }} threadIdx;
extern "C" cudaError_t cudaGetDeviceCount(int *count);
"""
RUNTIME = "int cudaGetDeviceCount(int *count) { *count = 0; return 100; }\n"
DRIVER = "int cuInit(unsigned flags) { return flags ? 1 : 100; }\n"
POSTINST = "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/local/cuda cuda {root} {rank}\n"
PRERM = "#!/bin/sh\nset -e\nupdate-alternatives --remove cuda {root}\n"
FURTHER = ("12.8.1", "13.4.0")


def build(site: Site) -> None:
    pin = site.pin("cuda").partition("-")[0]
    debs, rpms = [], []
    for version in sorted({pin, *FURTHER}):
        major, minor, _ = version.split(".")
        release, rank = f"{major}.{minor}", int(major) * 10 + int(minor)
        root, target = f"/usr/local/cuda-{release}", "targets/x86_64-linux"
        cudart = native.library(RUNTIME, soname=f"libcudart.so.{major}")
        files = {
            f"{root}/bin/nvcc": NVCC.format(release=release, version=version),
            f"{root}/{target}/include/cuda.h": "#pragma once\n",
            f"{root}/{target}/include/cuda_runtime.h": HEADER.format(
                number=int(major) * 1000 + int(minor) * 10
            ),
            f"{root}/{target}/lib/libcudart.so.{version}": cudart,
            f"{root}/{target}/lib/libcudart_static.a": b"!<arch>\n",
            f"{root}/{target}/lib/libcublas_static.a": b"!<arch>\n",
            f"{root}/{target}/lib/stubs/libcuda.so": native.library(DRIVER, soname="libcuda.so.1"),
            f"{root}/version.json": f'{{"cuda": {{"name": "CUDA SDK", "version": "{version}"}}}}\n',
        }
        links = {
            f"{root}/include": f"{target}/include",
            f"{root}/lib64": f"{target}/lib",
            f"{root}/{target}/lib/libcudart.so": f"libcudart.so.{major}",
            f"{root}/{target}/lib/libcudart.so.{major}": f"libcudart.so.{version}",
        }
        name = f"cuda-toolkit-{major}-{minor}"
        post, prerm = POSTINST.format(root=root, rank=rank), PRERM.format(root=root)
        debs.append(
            site.deb(name, f"{version}-1", files, links=links, scripts={"postinst": post, "prerm": prerm})
        )
        rpms.append(
            site.rpm(name, f"{version}-1", files, links=links, scripts={"post": post, "preun": prerm})
        )
    publish(site, debs=debs, rpms=rpms)
