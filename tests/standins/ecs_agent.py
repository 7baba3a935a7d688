"""Stand-in for the ECS agent: the packages, their unit, and an invalid container image."""

import shutil

from tests.standins.site import Site

BUCKET = "https://s3.us-east-1.amazonaws.com/amazon-ecs-agent-us-east-1"
UNIT = """\
[Unit]
Description=Amazon Elastic Container Service - container agent
Documentation=https://aws.amazon.com/documentation/ecs/
Requires=docker.service
After=docker.service

[Service]
Type=simple
Restart=on-failure
RestartSec=10s
EnvironmentFile=-/var/lib/ecs/ecs.config
EnvironmentFile=-/etc/ecs/ecs.config
ExecStartPre=/usr/libexec/amazon-ecs-init pre-start
ExecStart=/usr/libexec/amazon-ecs-init start
ExecStop=/usr/libexec/amazon-ecs-init stop
ExecStopPost=/usr/libexec/amazon-ecs-init post-stop

[Install]
WantedBy=multi-user.target
"""


def build(site: Site) -> None:
    version = site.pin("ecs_agent")
    image = f"/var/cache/ecs/ecs-agent-v{version}.tar"
    files = {
        "/usr/libexec/amazon-ecs-init": "#!/bin/sh\necho stand-in: $*\n",
        image: "stand-in\n",
        "/var/cache/ecs/state": "2\n",
    }
    links = {"/var/cache/ecs/ecs-agent.tar": image}
    deb = site.deb(
        "amazon-ecs-init",
        version,
        {**files, "/lib/systemd/system/ecs.service": UNIT},
        links=links,
        depends=["systemd", "docker-ce (>= 17.12.0) | docker-engine (>= 1.6.0) | docker-ee | docker.io"],
    )
    rpm = site.rpm(
        "ecs-init",
        f"{version}.amzn2023",
        {**files, "/usr/lib/systemd/system/ecs.service": UNIT},
        links=links,
        depends=["docker"],
    )
    shutil.copy(deb, site.url_file(f"{BUCKET}/amazon-ecs-init-{version}.amd64.deb"))
    shutil.copy(rpm, site.url_file(f"{BUCKET}/{rpm.name}"))
