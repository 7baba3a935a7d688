"""Stand-in for an EKS optimized image: the programs and units of a node."""

from pathlib import Path

from tests.standins.site import Content, Site

VERSION = "Kubernetes v1.33.5-eks-113cf36"
UNIT = "[Unit]\nDescription=Stand-in\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
UNITS = "/etc/systemd/system"


def build(site: Site) -> None:
    """Serve nothing: all files are in the base image."""


def base(site: Site) -> dict[str, Content | Path]:
    units = ("containerd", "kubelet", "nodeadm-config", "nodeadm-run")
    return {
        "/usr/bin/nodeadm": "#!/bin/sh\necho stand-in >&2\nexit 1\n",
        "/usr/bin/kubelet": f"#!/bin/sh\necho {VERSION}\n",
        "/usr/bin/containerd": "#!/bin/sh\necho containerd stand-in\n",
        "/etc/eks/kubelet-version.txt": f"{VERSION}\n",
        **{f"{UNITS}/{unit}.service": UNIT for unit in units},
        **{
            f"{UNITS}/multi-user.target.wants/{unit}.service": Path(f"{UNITS}/{unit}.service")
            for unit in ("nodeadm-config", "nodeadm-run")
        },
    }
