"""Stand-in for the Slurm installer of AWS PCS; it makes the folders and the record of the vendor's."""

from tests.standins.pcs_agent import BUCKET, KEY
from tests.standins.site import Site

INSTALLER = """\
#!/bin/sh
set -eu
[ "$1" = -y ]
folder=/opt/aws/pcs/scheduler/slurm-%s
mkdir -p $folder/bin $folder/lib /etc/aws/pcs/scheduler/slurm-%s/plugstack.conf.d
printf '#!/bin/sh\\necho slurm %s\\n' >$folder/bin/sinfo
chmod 755 $folder/bin/sinfo
cp /lib/*-linux-gnu/libm.so.6 $folder/lib/libslurmfull.so
cat >$folder/version <<END
SLURM_INSTALL_DATE='$(date)'
SLURM_VERSION='%s'
PCS_SLURM_RELEASE='%s'
END
"""


def build(site: Site) -> None:
    pin = site.pin("pcs_slurm")
    version, release = pin.split("-")
    series = ".".join(version.split(".")[:2])
    url = f"{BUCKET}/aws-pcs-slurm/aws-pcs-slurm-{series}-installer-{pin}.tar.gz"
    installer = INSTALLER % (series, series, version, version, release)
    site.sign(site.tar(url, {f"aws-pcs-slurm-{series}-installer/installer.sh": installer}))
    site.key(KEY)
