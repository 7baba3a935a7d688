"""Stand-in for the driver in the vendor's repositories. Debian's own driver packages need no stand-in.

Names, paths and scripts are the vendor's. The modules compile but do nothing; library and programs return
their version.
"""

from collections.abc import Callable
from pathlib import Path

from tests.facts import facts_of
from tests.standins import native
from tests.standins.cuda_repository import branch_of, driver_version, publish
from tests.standins.site import Content, Site

MODULES = ("nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm", "nvidia-peermem")
LICENSES = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}
SOURCE = """\
/* Stand-in: can be loaded and does nothing. */
#include <linux/module.h>
MODULE_VERSION("{version}");
MODULE_LICENSE("{license}");
"""
MAKEFILE = """\
obj-m := {objects}
modules:
\t$(MAKE) -C /lib/modules/$(KERNEL_UNAME)/build M=$(CURDIR) modules
clean:
\trm -f *.o *.ko *.mod.c
.PHONY: modules clean
"""
DKMS = """\
PACKAGE_NAME="nvidia"
PACKAGE_VERSION="{version}"
AUTOINSTALL="yes"
MAKE[0]="'make' -j`nproc` KERNEL_UNAME=${{kernelver}} modules"
CLEAN="make clean"
"""
POSTINST = """\
#!/bin/sh
set -e
[ "$1" != configure ] || /usr/lib/dkms/common.postinst nvidia {version} /usr/share/nvidia "" "$2"
"""
PRERM = "#!/bin/sh\nset -e\ndkms remove -m nvidia -v {version} --all >/dev/null 2>&1 || [ $? -eq 3 ]\n"
POST = """\
dkms add -m nvidia -v {version} -q --rpm_safe_upgrade || :
dkms build -m nvidia -v {version} -q || :
dkms install -m nvidia -v {version} -q --force || :
"""
LIBRARY = "int cuDriverGetVersion(int *version) { *version = 0; return 100; }\n"
SMI = """\
#!/bin/sh
echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
exit 9
"""
PERSISTENCED = (
    '#!/bin/sh\n[ "$1" = --version ] && echo "nvidia-persistenced:  version {version}" && exit 0\nexit 1\n'
)
# Some vendor packages have this unit, which is not enabled at boot and turns persistence mode off.
UNIT = """\
[Unit]
Description=NVIDIA Persistence Daemon
StopWhenUnneeded=true

[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
"""


def build(site: Site) -> None:
    driver = driver_version(site)
    debs, rpms = [], []
    for version in (driver, f"{branch_of(driver)}.999.99"):
        debs += ubuntu(site, version)
        rpms += amazon(site, version)
    publish(site, debs=debs, rpms=rpms)


def sources(version: str, flavor: str, *, flaw: str = "") -> dict[str, Content]:
    """Return the sources for dkms; `flaw` is appended to nvidia.c. Files below nvidia/ are not compiled."""
    folder = f"/usr/src/nvidia-{version}"
    text = SOURCE.format(version=version, license=LICENSES[flavor])
    dkms = DKMS.format(version=version)
    for i, name in enumerate(MODULES):
        dkms += f'BUILT_MODULE_NAME[{i}]="{name}"\nDEST_MODULE_LOCATION[{i}]="/kernel/drivers/video"\n'
    files: dict[str, Content] = {f"{folder}/{name}.c": text for name in MODULES}
    files[f"{folder}/nvidia.c"] = text + flaw
    files |= {
        f"{folder}/nvidia/{name}": "\n".join(calls)
        for name, calls in facts_of("nvidia_driver", version)["calls"].items()
    }
    files[f"{folder}/Makefile"] = MAKEFILE.format(objects=" ".join(f"{name}.o" for name in MODULES))
    files[f"{folder}/dkms.conf"] = dkms
    return files


def ubuntu(site: Site, version: str, *, flaw: str = "") -> list[Path]:
    """Return the Ubuntu packages; up to branch 580, names contain the branch. The two flavors conflict."""
    branch = branch_of(version)
    suffix = "" if branch >= 590 else f"-{branch}"
    full = f"{version}-1ubuntu1"
    scripts = {"postinst": POSTINST.format(version=version), "prerm": PRERM.format(version=version)}
    packages = [
        site.deb(
            f"nvidia-dkms{suffix}{end}",
            full,
            sources(version, flavor, flaw=flaw),
            depends=["dkms"],
            scripts=scripts,
            fields=instead_of("nvidia-dkms-kernel"),
        )
        for end, flavor in (("-open", "open"), ("", "proprietary"))
    ]
    library, smi, daemon = parts(version, "/usr/lib/x86_64-linux-gnu")
    links = {"/usr/lib/x86_64-linux-gnu/libcuda.so.1": f"libcuda.so.{version}"}
    if suffix == "":
        packages.append(site.deb("libnvidia-compute", full, library | smi, links=links))
        packages.append(site.deb("nvidia-persistenced", full, daemon))
        return packages
    for name, files in (
        ("libnvidia-compute", library),
        ("nvidia-utils", smi),
        ("nvidia-compute-utils", daemon),
    ):
        fields = instead_of("nvidia-persistenced" if name == "nvidia-compute-utils" else name)
        own = links if files is library else {}
        packages.append(site.deb(f"{name}{suffix}", full, files, links=own, fields=fields))
    return packages


def instead_of(name: str) -> dict[str, str]:
    return {"Provides": name, "Conflicts": name, "Replaces": name}


def amazon(site: Site, version: str) -> list[Path]:
    release = f"{version}-1.amzn2023"
    library, smi, daemon = parts(version, "/usr/lib64")
    links = {"/usr/lib64/libcuda.so.1": f"libcuda.so.{version}"}
    rpm: Callable[..., Path] = site.rpm
    return [
        *(
            rpm(
                name,
                release,
                sources(version, flavor),
                depends=["dkms"],
                scripts={"post": POST.format(version=version)},
            )
            for name, flavor in (
                ("kmod-nvidia-open-dkms", "open"),
                ("kmod-nvidia-latest-dkms", "proprietary"),
            )
        ),
        rpm(
            "nvidia-driver-cuda",
            release,
            library | smi,
            links=links,
            depends=[f"nvidia-persistenced = {release}"],
        ),
        rpm("nvidia-persistenced", release, daemon),
    ]


def parts(version: str, libraries: str) -> tuple[dict[str, Content], dict[str, Content], dict[str, Content]]:
    """Return the files of the library, the program and the daemon for one driver version."""
    library = native.library(LIBRARY, soname="libcuda.so.1")
    return (
        {f"{libraries}/libcuda.so.{version}": library},
        {"/usr/bin/nvidia-smi": SMI},
        {
            "/usr/bin/nvidia-persistenced": PERSISTENCED.format(version=version),
            "/lib/systemd/system/nvidia-persistenced.service": UNIT,
        },
    )
