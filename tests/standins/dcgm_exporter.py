"""Stand-in for NVIDIA's GPU metrics exporter: the package with the vendor's unit and an idle program."""

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
StandardOutput=append:/var/log/dcgm-exporter.log
StandardError=append:/var/log/dcgm-exporter.log
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
        # The package enables its service at boot, as Debian packages do by default.
        scripts={"postinst": "#!/bin/sh\nset -e\ndeb-systemd-helper enable nvidia-dcgm-exporter.service\n"},
    )
    rpm = site.rpm(
        "datacenter-gpu-manager-exporter",
        version,
        {**files, "/usr/lib/systemd/system/nvidia-dcgm-exporter.service": UNIT},
        depends=["datacenter-gpu-manager-4-core"],
    )
    publish(site, debs=[deb], rpms=[rpm])
