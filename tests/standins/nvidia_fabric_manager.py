"""Stand-in for the fabric manager: the vendor's packages and unit, with a program that prints its version."""

from tests.standins import native
from tests.standins.cuda_repository import branch_of, driver_version, publish
from tests.standins.site import Site

PROGRAM = "#!/bin/sh\necho 'Fabric Manager version is : %s'\n"
UNIT = """\
[Unit]
Description=NVIDIA fabric manager service
After=network-online.target
Requires=network-online.target

[Service]
User=root
PrivateTmp=false
Type=forking
TimeoutStartSec=720
ExecStart=/usr/bin/nv-fabricmanager -c /usr/share/nvidia/nvswitch/fabricmanager.cfg
LimitCORE=infinity

[Install]
WantedBy=multi-user.target
"""
NSCQ = "const char *nscq_standin_version(void) { return VERSION; }\n"
# The repository also has this newer version of the branch, which the role must not install.
NEWER = "999.99"


def build(site: Site) -> None:
    driver = driver_version(site)
    branch = branch_of(driver)
    suffix = "" if branch >= 580 else f"-{branch}"
    debs, rpms = [], []
    for version in (driver, f"{branch}.{NEWER}"):
        files = {
            "/usr/bin/nv-fabricmanager": PROGRAM % version,
            "/usr/share/nvidia/nvswitch/fabricmanager.cfg": "DAEMONIZE=1\n",
            "/lib/systemd/system/nvidia-fabricmanager.service": UNIT,
        }
        library = native.library(f'#define VERSION "{version}"\n{NSCQ}', soname="libnvidia-nscq.so.2")
        nscq = {f"/usr/lib/x86_64-linux-gnu/libnvidia-nscq.so.{version}": library}
        debs += [
            site.deb(f"nvidia-fabricmanager{suffix}", f"{version}-1", files),
            site.deb(f"libnvidia-nscq{suffix}", f"{version}-1", nscq),
        ]
        name = "nvidia-fabricmanager" if branch >= 580 else "nvidia-fabric-manager"
        rpms += [
            site.rpm(name, f"{version}-1", files),
            site.rpm(
                f"libnvidia-nscq{suffix}",
                f"{version}-1",
                {f"/usr/lib64/libnvidia-nscq.so.{version}": library},
            ),
        ]
    for version in ("2025.06.11-1", "2025.10.14-1"):
        files = {"/opt/nvidia/nvlsm/sbin/nvlsm": "#!/bin/sh\nexit 1\n"}
        debs.append(site.deb("nvlsm", version, files))
        rpms.append(site.rpm("nvlsm", version, files))
    publish(site, debs=debs, rpms=rpms)
