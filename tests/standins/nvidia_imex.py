"""Stand-in for IMEX: the vendor's package, unit and configuration, with a program that prints its version."""

from tests.standins.cuda_repository import branch_of, driver_version, publish
from tests.standins.site import Site

PROGRAM = "#!/bin/sh\necho 'IMEX version is: %s'\n"
UNIT = """\
[Unit]
Description=NVIDIA IMEX service
After=network-online.target
Requires=network-online.target

[Service]
User=root
PrivateTmp=false
Type=forking
TimeoutStartSec=infinity
ExecStart=/usr/bin/nvidia-imex -c /etc/nvidia-imex/config.cfg
LimitCORE=infinity

[Install]
WantedBy=multi-user.target
"""


def build(site: Site) -> None:
    driver = driver_version(site)
    branch = branch_of(driver)
    name = "nvidia-imex" if branch >= 580 else f"nvidia-imex-{branch}"
    debs, rpms = [], []
    for version in (driver, f"{branch}.999.99"):
        files = {
            "/usr/bin/nvidia-imex": PROGRAM % version,
            "/usr/bin/nvidia-imex-ctl": PROGRAM % version,
            "/etc/nvidia-imex/config.cfg": "IMEX_NODE_CONFIG_FILE=/etc/nvidia-imex/nodes_config.cfg\n",
            "/etc/nvidia-imex/nodes_config.cfg": "",
            "/lib/systemd/system/nvidia-imex.service": UNIT,
        }
        debs.append(site.deb(name, f"{version}-1", files))
        rpms.append(site.rpm(name, f"{version}-1", files))
    publish(site, debs=debs, rpms=rpms)
