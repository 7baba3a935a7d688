"""Stand-in for an EKS optimized image: the programs and units of a node."""

from pathlib import Path

from tests.standins.site import Content, Site

VERSION = "Kubernetes v1.33.13-eks-8f14419"
CONTAINERD = "containerd github.com/containerd/containerd/v2 2.2.4+unknown"
CONTAINERD_UNIT = "[Service]\nExecStart=/usr/bin/containerd\n[Install]\nWantedBy=multi-user.target\n"
UNITS = "/etc/systemd/system"
KUBELET_UNIT = """\
[Unit]
Description=Kubernetes Kubelet
Documentation=https://github.com/kubernetes/kubernetes
After=containerd.service
Wants=containerd.service

[Service]
Slice=runtime.slice
EnvironmentFile=/etc/eks/kubelet/environment
ExecStartPre=/sbin/iptables -P FORWARD ACCEPT -w 5
ExecStart=/usr/bin/kubelet $NODEADM_KUBELET_ARGS
Restart=on-failure
RestartForceExitStatus=SIGPIPE
RestartSec=5
KillMode=process
CPUAccounting=true
MemoryAccounting=true

[Install]
WantedBy=multi-user.target
"""
NODEADM_UNIT = """\
[Unit]
Description=EKS Nodeadm {title}
Documentation=https://github.com/awslabs/amazon-eks-ami
{order}

[Service]
Type=oneshot
ExecStart=/usr/bin/{command}
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""
USER_DATA = "--config-source imds://user-data"
CACHE = "--config-cache /run/eks/nodeadm/config.json"
# Units that start with the machine: the title, the order and the command of each.
NODEADM = {
    "nodeadm-boot-hook": (
        "Boot Hook",
        "Before=nodeadm-config.service\nAfter=systemd-networkd.service\nBefore=systemd-networkd-wait-online.service",
        "nodeadm-internal boot-hook",
    ),
    "nodeadm-config": (
        "Config",
        "Before=cloud-init.service\nAfter=systemd-networkd-wait-online.service",
        f"nodeadm init --skip run {USER_DATA} {CACHE}",
    ),
    "nodeadm-run": (
        "Run",
        "After=nodeadm-config.service cloud-final.service\nRequires=nodeadm-config.service",
        f"nodeadm init --skip config {USER_DATA} --config-source file:///etc/eks/nodeadm.d/ {CACHE}",
    ),
}


def build(site: Site) -> None:
    """Serve nothing: all files are in the base image."""


def base(site: Site) -> dict[str, Content | Path]:
    return {
        "/usr/bin/nodeadm": "#!/bin/sh\necho stand-in >&2\nexit 1\n",
        "/usr/bin/kubelet": f"#!/bin/sh\necho {VERSION}\n",
        "/usr/bin/containerd": f"#!/bin/sh\necho {CONTAINERD}\n",
        "/etc/eks/kubelet-version.txt": f"{VERSION}\n",
        "/usr/lib/systemd/system/containerd.service": CONTAINERD_UNIT,
        f"{UNITS}/kubelet.service": KUBELET_UNIT,
        **{
            f"{UNITS}/{unit}.service": NODEADM_UNIT.format(title=title, order=order, command=command)
            for unit, (title, order, command) in NODEADM.items()
        },
        **{
            f"{UNITS}/multi-user.target.wants/{unit}.service": Path(f"{UNITS}/{unit}.service")
            for unit in NODEADM
        },
    }
