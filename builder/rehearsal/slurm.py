"""Generate the configuration of a Slurm cluster whose nodes declare the resources of an EC2 type."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.model import Instance
from builder.rehearsal.ec2.machine import Extra

HEAD = "head"
SHARED = "/fsx"  # the shared file system, on all machines
SOFTWARE = Extra(
    packages=("munge", "slurm-client", "slurmctld", "slurmd"),
    # Each machine later enables either slurmctld or slurmd, and each cluster gets its own munge key.
    script="""\
chroot "$1" systemctl --quiet disable slurmctld slurmd
rm -f "$1/etc/munge/munge.key"
chroot "$1" install -d -o slurm -g slurm /var/lib/slurm/slurmctld /var/lib/slurm/slurmd /var/log/slurm
""",
)
_NVIDIA = 195  # major number of the devices /dev/nvidia*
_WANTS = "etc/systemd/system/multi-user.target.wants"


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """File of a machine; `target` makes it a symbolic link."""

    path: str
    content: str = ""
    target: str = ""


def node_names(nodes: int) -> list[str]:
    return [f"node-{i}" for i in range(1, nodes + 1)]


def machine_files(instance: Instance, names: Sequence[str], *, is_head: bool, release: int) -> list[File]:
    """Return the files of the head or of a node; `release` is the Debian release."""
    service = "slurmctld" if is_head else "slurmd"
    found = [File(path=f"etc/slurm/{name}", content=text) for name, text in _config(instance, names, release)]
    found.append(File(path=f"{_WANTS}/{service}.service", target=f"/lib/systemd/system/{service}.service"))
    if _gpus(instance) and not is_head:
        # slurmd offers GPUs only if their device files exist, which each start of a machine creates again.
        made = [
            f"ExecStartPre=-mknod -m 666 /dev/nvidia{i} c {_NVIDIA} {i}\n" for i in range(_gpus(instance))
        ]
        path = "etc/systemd/system/slurmd.service.d/devices.conf"
        found.append(File(path=path, content="".join(["[Service]\n", *made])))
    return found


def _gpus(instance: Instance) -> int:
    return instance.count or 0 if instance.accel == "nvidia" else 0


def gpu_type(instance: Instance) -> str:
    """Return the accelerator's name as Slurm writes types, for example rtx_pro_6000."""
    return re.sub(r"[^a-z0-9]+", "_", instance.accelerator.lower())


def _config(instance: Instance, names: Sequence[str], release: int) -> list[tuple[str, str]]:
    # Slurm before 23.02 requires a cgroup plugin; this plugin creates no control groups.
    groups = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n" if release < 13 else "CgroupPlugin=disabled\n"
    found = [("slurm.conf", _slurm_conf(instance, names)), ("cgroup.conf", groups)]
    if gpus := _gpus(instance):
        devices = f"/dev/nvidia[0-{gpus - 1}]" if gpus > 1 else "/dev/nvidia0"
        text = f"NodeName={','.join(names)} Name=gpu Type={gpu_type(instance)} File={devices}\n"
        found.append(("gres.conf", text))
    return found


def _slurm_conf(instance: Instance, names: Sequence[str]) -> str:
    vcpus, threads, gpus = instance.vcpus or 1, instance.threads, _gpus(instance)
    node = {
        "NodeName": ",".join(names),
        "CPUs": vcpus,
        "Sockets": 1,
        "CoresPerSocket": max(1, vcpus // threads),
        "ThreadsPerCore": min(vcpus, threads),
        "RealMemory": (instance.ram_gib or 1) * 1024,
        **({"Gres": f"gpu:{gpu_type(instance)}:{gpus}"} if gpus else {}),
    }
    settings: Mapping[str, object] = {
        "ClusterName": "rehearsal",
        "SlurmctldHost": HEAD,
        "SlurmUser": "slurm",
        "AuthType": "auth/munge",
        "StateSaveLocation": "/var/lib/slurm/slurmctld",
        "SlurmdSpoolDir": "/var/lib/slurm/slurmd",
        "SlurmctldPidFile": "/run/slurmctld.pid",
        "SlurmdPidFile": "/run/slurmd.pid",
        "SlurmctldLogFile": "/var/log/slurm/slurmctld.log",
        "SlurmdLogFile": "/var/log/slurm/slurmd.log",
        "ProctrackType": "proctrack/linuxproc",  # the default needs control groups
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        # Nodes keep the declared resources, even if this machine has fewer.
        "SlurmdParameters": "config_overrides",
        "PropagateResourceLimitsExcept": "MEMLOCK",
        "ReturnToService": 2,
        "MpiDefault": "none",
        **({"GresTypes": "gpu"} if gpus else {}),
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines.append(" ".join(f"{key}={value}" for key, value in node.items()))
    lines.append(f"PartitionName={instance.family} Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"


def with_user(passwd: str, group: str, uid: int, gid: int) -> tuple[str, str]:
    """Return a machine's /etc/passwd and /etc/group with the user `uid`, as whom jobs run."""
    users = {line.split(":")[2] for line in passwd.splitlines()}
    groups = {line.split(":")[2] for line in group.splitlines()}
    if str(uid) not in users:
        passwd += f"builder:x:{uid}:{gid}::{SHARED}:/bin/bash\n"
    if str(gid) not in groups:
        group += f"builder:x:{gid}:\n"
    return passwd, group
