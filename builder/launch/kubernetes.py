"""Kubernetes objects of a job: PyTorchJob, TrainJob, MPIJob, JobSet, RayCluster and DaemonSet."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from builder.launch.job import HEAD, PORT, Job
from builder.launch.section import torchrun

Document = dict[str, Any]

# Kinds of Kubernetes object for each runner; the first is the default.
KINDS: Mapping[str, tuple[str, ...]] = {
    "torchrun": ("pytorchjob", "trainjob", "jobset"),
    "mpirun": ("mpijob",),
    "ray": ("raycluster",),
    "node": ("jobset", "daemonset"),
    "none": ("jobset", "daemonset"),
}
_RESTARTS = 3  # of the whole job, from its last checkpoint
_HUGE_PAGES = "5120Mi"  # EFA's queues on one node; the nodes of EKS reserve as much
_TYPE_LABEL = "node.kubernetes.io/instance-type"
_HYPERPOD = "sagemaker.amazonaws.com"


def document(job: Job, *, is_hyperpod: bool) -> Document:
    """Return the job's Kubernetes object; on HyperPod with its node labels and automatic resumption."""
    found = _KINDS[job.kind](job)
    found["metadata"] = {"name": job.image.target, "labels": _labels(job)}
    found["metadata"]["annotations"] = {"factory/image": job.image.name, "factory/run": job.image.run}
    if is_hyperpod:
        # HyperPod resumes jobs in namespace kubeflow and in namespaces whose names begin with hyperpod.
        found["metadata"]["namespace"] = "kubeflow"
        found["metadata"]["annotations"] |= {
            f"{_HYPERPOD}/enable-job-auto-resume": "true",
            f"{_HYPERPOD}/job-max-retry-count": str(_RESTARTS),
        }
        for selector in _selectors(found):
            selector[_TYPE_LABEL] = f"ml.{job.instance.name}"
            selector[f"{_HYPERPOD}/node-health-status"] = "Schedulable"
    return found


def _selectors(value: object) -> list[dict[str, str]]:
    """Return all nodeSelector tables in a Kubernetes object, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in _selectors(item)]
    if not isinstance(value, dict):
        return []
    own = [value["nodeSelector"]] if "nodeSelector" in value else []
    return own + [found for item in value.values() for found in _selectors(item)]


def _labels(job: Job) -> dict[str, str]:
    return {"factory/target": job.image.target, "factory/flavour": job.image.flavour}


def _pytorchjob(job: Job) -> Document:
    """Return a PyTorchJob; the operator passes the rendezvous in variables (PET_*) that torchrun reads."""
    pod = _pod(job, "pytorch", [*torchrun(), *job.program])
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {},
        "spec": {
            "nprocPerNode": str(job.processes),
            "elasticPolicy": {
                "rdzvBackend": "c10d",
                "minReplicas": job.nodes,
                "maxReplicas": job.nodes,
                "maxRestarts": _RESTARTS,
            },
            "runPolicy": {"backoffLimit": _RESTARTS, "cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {
                "Worker": {"replicas": job.nodes, "restartPolicy": "OnFailure", "template": {"spec": pod}}
            },
        },
    }


def _trainjob(job: Job) -> Document:
    """Return a TrainJob with the runtime torch-distributed, patched with volumes and node placement."""
    container, volumes = _container(job, "node", []), _volumes(job)
    patch = {
        **_placement(job),
        "volumes": volumes,
        "containers": [{"name": "node", "volumeMounts": container["volumeMounts"]}],
    }
    pods = {"name": "node", "template": {"spec": {"template": {"spec": patch}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "image": job.image.name,
                "command": _escaped([*torchrun(), *job.program]),
                "numNodes": job.nodes,
                "numProcPerNode": job.processes,
                "env": container["env"],
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [
                {
                    "manager": "image-factory/builder",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [pods]}}},
                }
            ],
        },
    }


def _mpijob(job: Job) -> Document:
    """Return an MPIJob; its workers run the SSH server of the image."""
    command = ["mpirun", "-np", str(job.nodes * job.processes), "--bind-to", "none"]
    for name in job.environment:
        command += ["-x", name]
    launcher = _pod(job, "launcher", [*command, *job.program])
    for key in ("resources", "volumeMounts"):
        del launcher["containers"][0][key]
    launcher = {"restartPolicy": "OnFailure", "containers": launcher["containers"]}
    worker = _pod(job, "worker", ["/usr/sbin/sshd", "-De"])
    return {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": {},
        "spec": {
            "slotsPerWorker": job.processes,
            "runPolicy": {"backoffLimit": _RESTARTS, "cleanPodPolicy": "Running"},
            "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "template": {"spec": launcher}},
                "Worker": {"replicas": job.nodes, "template": {"spec": worker}},
            },
        },
    }


def _jobset(job: Job) -> Document:
    """Return a JobSet of one indexed job; its first pod is the rendezvous."""
    command = list(job.program)
    head = f"{job.image.target}-workers-0-0.{job.image.target}:{PORT}"
    if job.launch.runner == "torchrun":
        runner = torchrun(
            f"--nnodes={job.nodes}",
            f"--nproc-per-node={job.processes}",
            f"--rdzv-id={job.image.target}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={head}",
        )
        command = [*runner, *command]
    pod = {"restartPolicy": "Never", **_pod(job, "worker", command)}
    if job.joins_nodes:
        pod["containers"][0]["env"] += _ranks(job, head)
    spec = {
        "parallelism": job.nodes,
        "completions": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {},
        "spec": {
            "failurePolicy": {"maxRestarts": _RESTARTS},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": spec}}],
        },
    }


def _ranks(job: Job, head: str) -> list[Document]:
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {"name": "RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "WORLD_SIZE", "value": str(job.nodes)},
        {"name": HEAD, "value": head},
    ]


def _raycluster(job: Job) -> Document:
    """Return a RayCluster of a head and workers; the operator adds `ray start` to each container."""
    workers = job.nodes - 1
    group = {
        "groupName": "workers",
        "replicas": workers,
        "minReplicas": workers,
        "maxReplicas": workers,
        "rayStartParams": {},
        "template": {"spec": _ray_pod(job, "ray-worker")},
    }
    head = {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": {"spec": _ray_pod(job, "ray-head")}}  # noqa: S104 (pods of the cluster)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {},
        "spec": {"headGroupSpec": head, "workerGroupSpecs": [group] if workers else []},
    }


def _ray_pod(job: Job, name: str) -> Document:
    pod = _pod(job, name, [])
    del pod["containers"][0]["command"]
    return pod


def _daemonset(job: Job) -> Document:
    """Return a DaemonSet for all nodes of the EC2 type; its program runs in a loop and requests no GPUs."""
    pod = _pod(job, "worker", list(job.program))
    container = pod["containers"][0]
    container["resources"] = {
        "limits": {"memory": "1Gi"},
        "requests": {"memory": "256Mi", "cpu": "100m"},
    }
    if job.gpus:
        container["env"].append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})
    template = {"metadata": {"labels": _labels(job)}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {},
        "spec": {"selector": {"matchLabels": _labels(job)}, "template": template},
    }


def _pod(job: Job, name: str, command: list[str]) -> Document:
    return {
        **_placement(job),
        "containers": [_container(job, name, command)],
        "volumes": _volumes(job),
    }


def _placement(job: Job) -> Document:
    """Return the node selector for the EC2 type and the tolerations for taints of accelerator nodes."""
    placement: Document = {"nodeSelector": {_TYPE_LABEL: job.instance.name}}
    if job.gpus or job.neuron_devices:
        keys = ["nvidia.com/gpu"] if job.gpus else ["aws.amazon.com/neuron"]
        placement["tolerations"] = [
            {"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys
        ]
    return placement


def _container(job: Job, name: str, command: list[str]) -> Document:
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]  # noqa: S108 (a path in the container)
    for path, folder in job.folders.items():
        claim, below = _claim(folder)
        mounts.append({"name": claim, "mountPath": path} | ({"subPath": below} if below else {}))
    resources = _resources(job)
    container: Document = {
        "name": name,
        "image": job.image.name,
        "command": _escaped(command),
        "env": [{"name": key, "value": value} for key, value in job.environment.items()],
        "resources": {"limits": resources, "requests": dict(resources)},
        "volumeMounts": mounts,
    }
    if job.capabilities:
        container["securityContext"] = {"capabilities": {"add": list(job.capabilities)}}
    return container


def _escaped(command: list[str]) -> list[str]:
    """Return the words with `$(` escaped, which Kubernetes would expand."""
    return [word.replace("$(", "$$(") for word in command]


def _resources(job: Job) -> dict[str, str | int]:
    """Return a pod's resources: memory and all accelerators and EFA interfaces of a node."""
    resources: dict[str, str | int] = {"memory": f"{job.memory_mib // 1024}Gi"}
    if job.gpus:
        resources["nvidia.com/gpu"] = job.gpus
    if job.neuron_devices:
        resources["aws.amazon.com/neuron"] = job.neuron_devices
    if job.efa:
        resources["vpc.amazonaws.com/efa"] = job.efa
        resources["hugepages-2Mi"] = _HUGE_PAGES
    if not job.gpus and not job.neuron_devices:
        resources["cpu"] = max(1, (job.instance.vcpus or 0) - 1)
    return resources


def _volumes(job: Job) -> list[Document]:
    size = f"{job.launch.shared_memory_gib}Gi"
    volumes: list[Document] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}]
    claims = sorted({_claim(folder)[0] for folder in job.folders.values()})
    return volumes + [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]


def _claim(folder: str) -> tuple[str, str]:
    """Split a folder into volume claim and path in the volume: /fsx/a/b is a/b of the claim `fsx`."""
    _, claim, *below = PurePosixPath(folder).parts
    return claim, "/".join(below)


_KINDS: Mapping[str, Callable[[Job], Document]] = {
    "pytorchjob": _pytorchjob,
    "trainjob": _trainjob,
    "mpijob": _mpijob,
    "jobset": _jobset,
    "raycluster": _raycluster,
    "daemonset": _daemonset,
}
