"""Stand-in for DCGM: packages for all CUDA versions, with a unit and a program that prints its version."""

from tests.standins.cuda_repository import publish
from tests.standins.site import Site

PROGRAM = """\
#!/bin/sh
[ "$1" = --version ] && printf '\\ndcgmi  version: %s\\n' && exit 0
echo stand-in >&2
exit 1
"""
ENGINE = "#!/bin/sh\nexec tail -f /dev/null\n"
UNIT = """\
[Unit]
Description=NVIDIA DCGM service

[Service]
User=root
PrivateTmp=false
Environment="DCGM_HOME_DIR=/var/log/nvidia-dcgm"
ExecStart=/usr/bin/nv-hostengine -n --service-account nvidia-dcgm
Restart=on-abort

[Install]
WantedBy=multi-user.target
"""


def build(site: Site) -> None:
    pin = site.pin("dcgm")
    major, rest = pin.split(".", 1)
    core = f"datacenter-gpu-manager-{major}-core"
    debs, rpms = [], []
    for version in (pin, f"{major}.{int(rest.split('.')[0]) + 1}.0"):
        files = {
            "/usr/bin/dcgmi": PROGRAM % version,
            "/usr/bin/nv-hostengine": ENGINE,
            "/usr/lib/systemd/system/nvidia-dcgm.service": UNIT,
        }
        # The package enables its service at boot, as Debian packages do by default.
        scripts = {
            "postinst": "#!/bin/sh\nset -e\ndeb-systemd-helper enable nvidia-dcgm.service >/dev/null\n"
        }
        debs.append(site.deb(core, f"1:{version}-1", files, scripts=scripts))
        rpms.append(site.rpm(core, f"{version}-1", files))
        for cuda in (11, 12, 13):
            name = f"datacenter-gpu-manager-{major}-cuda{cuda}"
            debs.append(site.deb(name, f"1:{version}-1", {}, depends=[f"{core} (= 1:{version}-1)"]))
            rpms.append(site.rpm(name, f"{version}-1", {}, depends=[f"{core} = {version}-1"]))
        for suffix in ("", "-cuda11", "-cuda12", "-cuda13"):
            name = f"datacenter-gpu-manager-{major}-proprietary{suffix}"
            debs.append(site.deb(name, f"1:{version}-1", {}))
            rpms.append(site.rpm(name, f"{version}-1", {}))
    publish(site, debs=debs, rpms=rpms)
