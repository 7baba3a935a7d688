"""Stand-in for the Systems Manager agent: deb and rpm packages with signatures and the vendor's names."""

import shutil

from tests.standins.site import Site

BUCKET = "https://s3.us-east-1.amazonaws.com/amazon-ssm-us-east-1"
KEY = "https://raw.githubusercontent.com/aws/amazon-ecs-ami/main/files/amazon-ssm-agent.gpg"
PROGRAM = """\
#!/bin/sh
[ "${1:-}" = -version ] && { echo 'SSM Agent version: %s'; exit 0; }
exec tail --follow /dev/null
"""
UNIT = """\
[Unit]
Description=amazon-ssm-agent
After=network-online.target

[Service]
Type=simple
WorkingDirectory=/usr/bin/
ExecStart=/usr/bin/amazon-ssm-agent
KillMode=process
Restart=always
RestartPreventExitStatus=194
RestartSec=90

[Install]
WantedBy=multi-user.target
"""

POSTINST = """\
#!/bin/bash
echo "Starting agent"
if [ $(cat /proc/1/comm) = init ]
then
    start amazon-ssm-agent || true
elif [ $(cat /proc/1/comm) = systemd ]
then
    systemctl enable amazon-ssm-agent
    systemctl start amazon-ssm-agent
    systemctl daemon-reload
fi
"""


def build(site: Site) -> None:
    version = site.pin("ssm_agent")
    files = {
        "/usr/bin/amazon-ssm-agent": PROGRAM % version,
        "/usr/bin/ssm-agent-worker": PROGRAM % version,
        "/usr/bin/ssm-cli": PROGRAM % version,
        "/usr/bin/ssm-document-worker": PROGRAM % version,
        "/usr/bin/ssm-session-logger": PROGRAM % version,
        "/usr/bin/ssm-session-worker": PROGRAM % version,
        "/etc/amazon/ssm/amazon-ssm-agent.json.template": "{}\n",
        "/etc/amazon/ssm/seelog.xml.template": "<seelog/>\n",
    }
    deb = site.deb(
        "amazon-ssm-agent",
        f"{version}-1",
        {**files, "/lib/systemd/system/amazon-ssm-agent.service": UNIT},
        depends=["libc6"],
        scripts={"postinst": POSTINST},
    )
    rpm = site.rpm(
        "amazon-ssm-agent", f"{version}-1", {**files, "/etc/systemd/system/amazon-ssm-agent.service": UNIT}
    )
    for package, folder in ((deb, "debian_amd64"), (rpm, "linux_amd64")):
        url = f"{BUCKET}/{version}/{folder}/amazon-ssm-agent{package.suffix}"
        site.sign(shutil.copy(package, site.url_file(url)))
    site.key(KEY)
