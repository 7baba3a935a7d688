"""Job definition of AWS Batch: one container per node of a multi-node job."""

import shlex
from typing import Any

from builder.launch.job import HEAD, PORT, Job
from builder.launch.section import torchrun
from builder.marks import KEY_TAG, RUN_TAG, TARGET_TAG

_ATTEMPTS = 3


def definition(job: Job) -> dict[str, Any]:
    """Return the input of `aws batch register-job-definition`."""
    container = _container(job)
    common = {
        "jobDefinitionName": f"{job.image.target}-{job.image.flavour}".replace(".", "-"),
        "retryStrategy": {
            "attempts": _ATTEMPTS,
            "evaluateOnExit": [
                {"onStatusReason": "Host EC2*", "action": "RETRY"},
                {"onReason": "*", "action": "EXIT"},
            ],
        },
        "tags": {TARGET_TAG: job.image.target, RUN_TAG: job.image.run, KEY_TAG: job.image.key},
        "propagateTags": True,
    }
    if job.nodes == 1:
        return {
            **common,
            "type": "container",
            "platformCapabilities": ["EC2"],
            "containerProperties": container,
        }
    nodes = {
        "numNodes": job.nodes,
        "mainNode": 0,
        "nodeRangeProperties": [
            {"targetNodes": "0:", "container": container | {"instanceType": job.instance.name}}
        ],
    }
    return {**common, "type": "multinode", "nodeProperties": nodes}


def _container(job: Job) -> dict[str, Any]:
    requirements = [
        {"type": "VCPU", "value": str(job.instance.vcpus)},
        {"type": "MEMORY", "value": str(job.memory_mib)},
        *([{"type": "GPU", "value": str(job.gpus)}] if job.gpus else []),
    ]
    volumes = [
        {"name": f"mount-{i}", "host": {"sourcePath": folder}}
        for i, folder in enumerate(job.folders.values())
    ]
    mounts = [{"sourceVolume": f"mount-{i}", "containerPath": path} for i, path in enumerate(job.folders)]
    devices = [
        {"hostPath": path, "containerPath": path, "permissions": ["READ", "WRITE", "MKNOD"]}
        for path in job.devices
    ]
    return {
        "image": job.image.name,
        "command": _command(job),
        "resourceRequirements": requirements,
        "environment": [{"name": name, "value": value} for name, value in job.environment.items()],
        "volumes": volumes,
        "mountPoints": mounts,
        "ulimits": [{"name": "memlock", "softLimit": -1, "hardLimit": -1}],
        "linuxParameters": {
            "initProcessEnabled": True,
            "sharedMemorySize": job.launch.shared_memory_gib * 1024,
            **({"devices": devices} if devices else {}),
        },
    }


def _command(job: Job) -> list[str]:
    """Return the container command of a node; on the main node, AWS Batch sets no main-address variable."""
    if job.launch.runner == "mpirun":
        return ["mpirun", "--oversubscribe", "-np", str(job.processes), *job.program]
    if job.launch.runner != "torchrun" and not job.joins_nodes:
        return list(job.program)
    if job.nodes == 1:
        return [*torchrun("--standalone", f"--nproc-per-node={job.processes}"), *job.program]
    head = "head=${AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS:-$(hostname -i)}"
    lines = _ranks(job) if job.joins_nodes else _torchrun(job)
    return ["/bin/sh", "-euc", "\n".join([head, *lines])]


def _ranks(job: Job) -> list[str]:
    return [
        'export RANK="$AWS_BATCH_JOB_NODE_INDEX" WORLD_SIZE="$AWS_BATCH_JOB_NUM_NODES"'
        f' {HEAD}="$head:{PORT}"',
        f"exec {shlex.join(job.program)}",
    ]


def _torchrun(job: Job) -> list[str]:
    return [
        "is_host=false",
        'test "$AWS_BATCH_JOB_NODE_INDEX" != "$AWS_BATCH_JOB_MAIN_NODE_INDEX" || is_host=true',
        'exec torchrun --nnodes="$AWS_BATCH_JOB_NUM_NODES"'
        f' --nproc-per-node={job.processes} --rdzv-id="${{AWS_BATCH_JOB_ID%#*}}" --rdzv-backend=c10d'
        f' --rdzv-endpoint="$head:{PORT}" --rdzv-conf="is_host=$is_host"'
        f" -- {shlex.join(job.program)}",
    ]
