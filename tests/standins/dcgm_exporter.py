"""Stand-in for NVIDIA's exporter of GPU metrics: the package with the vendor's unit, a program that waits."""

from tests.standins.cuda_repository import publish
from tests.standins.site import Site

UNIT = """\
[Unit]
Description=NVIDIA DCGM-exporter service
Wants=nvidia-dcgm.service
After=nvidia-dcgm.service

[Service]
User=root
PrivateTmp=false
StandardOutput=append:/var/dcgm-exporter.log
StandardError=append:/var/dcgm-exporter.log
ExecStart=/usr/bin/dcgm-exporter -f /etc/dcgm-exporter/default-counters.csv
Restart=on-abort

[Install]
WantedBy=multi-user.target
"""


def build(site: Site) -> None:
    version = site.pin("dcgm_exporter")
    files = {
        "/usr/bin/dcgm-exporter": "#!/bin/sh\nexec tail -f /dev/null\n",
        "/etc/dcgm-exporter/default-counters.csv": "# stand-in\n",
    }
    deb = site.deb(
        "datacenter-gpu-manager-exporter",
        version,
        {**files, "/lib/systemd/system/nvidia-dcgm-exporter.service": UNIT},
        depends=["datacenter-gpu-manager-4-core"],
        # As packages of Debian do it: what is installed starts at boot unless somebody says otherwise.
        scripts={"postinst": "#!/bin/sh\nset -e\ndeb-systemd-helper enable nvidia-dcgm-exporter.service\n"},
    )
    rpm = site.rpm(
        "datacenter-gpu-manager-exporter",
        version,
        {**files, "/usr/lib/systemd/system/nvidia-dcgm-exporter.service": UNIT},
        depends=["datacenter-gpu-manager-4-core"],
    )
    publish(site, debs=[deb], rpms=[rpm])
