"""Stand-in for the CloudWatch agent: signed deb and rpm packages with the vendor's names and folders."""

import shutil

from tests.standins.site import Site

BUCKET = "https://amazoncloudwatch-agent.s3.amazonaws.com"
FOLDER = "/opt/aws/amazon-cloudwatch-agent"
PROGRAM = "#!/bin/sh\nexec tail --follow /dev/null\n"
CONTROL = '#!/bin/sh\necho \'{"status": "stopped", "configstatus": "not configured"}\'\n'
UNIT = f"""\
[Unit]
Description=Amazon CloudWatch Agent
After=network.target

[Service]
Type=simple
ExecStart={FOLDER}/bin/start-amazon-cloudwatch-agent
KillMode=process
Restart=on-failure
RestartSec=60s

[Install]
WantedBy=multi-user.target
"""

PREINST = """\
#!/bin/sh
if ! grep "^cwagent:" /etc/group >/dev/null 2>&1; then
    groupadd -r cwagent >/dev/null 2>&1
fi
if ! id cwagent >/dev/null 2>&1; then
    useradd -r -M cwagent -d /home/cwagent -g cwagent -s /usr/sbin/nologin >/dev/null 2>&1
fi
"""


def build(site: Site) -> None:
    version = site.pin("cloudwatch_agent")
    files = {
        f"{FOLDER}/bin/CWAGENT_VERSION": version,
        f"{FOLDER}/bin/amazon-cloudwatch-agent": PROGRAM,
        f"{FOLDER}/bin/amazon-cloudwatch-agent-ctl": CONTROL,
        f"{FOLDER}/bin/start-amazon-cloudwatch-agent": PROGRAM,
        f"{FOLDER}/etc/common-config.toml": "# Stand-in.\n",
        "/etc/systemd/system/amazon-cloudwatch-agent.service": UNIT,
    }
    links = {
        "/usr/bin/amazon-cloudwatch-agent-ctl": f"{FOLDER}/bin/amazon-cloudwatch-agent-ctl",
        "/etc/amazon/amazon-cloudwatch-agent": f"{FOLDER}/etc",
    }
    deb = site.deb(
        "amazon-cloudwatch-agent",
        f"{version}-1",
        files,
        depends=["libc6"],
        scripts={"preinst": PREINST},
        links=links,
    )
    rpm = site.rpm("amazon-cloudwatch-agent", f"{version}-1", files, links=links)
    for package, folder in ((deb, "debian"), (rpm, "amazon_linux")):
        url = f"{BUCKET}/{folder}/amd64/{version}/amazon-cloudwatch-agent{package.suffix}"
        site.sign(shutil.copy(package, site.url_file(url)))
    site.key(f"{BUCKET}/assets/amazon-cloudwatch-agent.gpg")
