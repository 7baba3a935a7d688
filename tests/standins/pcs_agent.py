"""Stand-in for the installer of the AWS PCS agent; it records the version like the vendor's."""

from tests.standins.site import Site

BUCKET = "https://aws-pcs-repo-us-east-1.s3.us-east-1.amazonaws.com"
KEY = "https://aws-pcs-repo-public-keys-us-east-1.s3.us-east-1.amazonaws.com/aws-pcs-public-key.pub"
INSTALLER = """\
#!/bin/sh
set -eu
[ "$1" = -y ]
mkdir -p /opt/aws/pcs
cat >/opt/aws/pcs/version <<END
AGENT_INSTALL_DATE='$(date)'
AGENT_VERSION='%s'
AGENT_RELEASE='%s'
END
"""


def build(site: Site) -> None:
    pin = site.pin("pcs_agent")
    version, release = pin.split("-")
    url = f"{BUCKET}/aws-pcs-agent/aws-pcs-agent-v{pin}.tar.gz"
    site.sign(site.tar(url, {"aws-pcs-agent/installer.sh": INSTALLER % (version, release)}))
    site.key(KEY)
