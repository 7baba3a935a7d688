"""Launch files that are shell scripts: sbatch files for Slurm, and a script for Docker."""

import shlex
from collections.abc import Sequence

from builder.launch.job import HEAD, PORT, Job, squashfs_name
from builder.launch.section import torchrun

_IMAGES = "/fsx/images"  # squashfs files, on the shared file system
_HEAD_NODE = f"${{HEAD_NODE:?must be the host name of the first node}}:{PORT}"
_ADVANCE_S = 120  # between SIGTERM and the end of the time limit: a program saves a checkpoint


def sbatch(job: Job, *, has_auto_resume: bool) -> str:
    """Return the sbatch file; with `has_auto_resume`, HyperPod replaces failed nodes and resumes the step."""
    parts = [
        "#!/bin/bash",
        *(f"# {line}" for line in job.header),
        f"# Submit it: sbatch {job.image.target}.sbatch [ARGUMENTS OF THE PROGRAM]",
        *(f"#SBATCH {directive}" for directive in _directives(job)),
        "set -euo pipefail",
        "",
        *([] if job.has_runtime else _unpacked(job)),
        *(f"unset {name}" for name in job.unset),
        *(f"export {name}={shlex.quote(value)}" for name, value in _environment(job).items()),
    ]
    if job.launch.runner == "torchrun" or job.joins_nodes:
        parts.append('head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)')
    if job.joins_nodes:
        parts.append(f'export WORLD_SIZE="$SLURM_JOB_NUM_NODES" {HEAD}="$head:{PORT}"')
    step = ["srun", "--kill-on-bad-exit=1", "--cpu-bind=none"]
    step += ["--auto-resume=1"] if has_auto_resume else []
    step += ["--mpi=pmix"] if job.launch.runner == "mpirun" else []
    step += _container(job) if job.has_runtime else []
    return "\n".join([*parts, "", _lines(step, [*_start(job), *_program(job), '"$@"'])]) + "\n"


def _directives(job: Job) -> list[str]:
    per_node = job.processes if job.launch.runner == "mpirun" else 1
    return [
        f"--job-name={job.image.target}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={per_node}",
        *([f"--gpus-per-node={job.gpus}"] if job.gpus else []),
        "--exclusive",
        "--mem=0",
        f"--signal=TERM@{_ADVANCE_S}",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.out",
    ]


def _environment(job: Job) -> dict[str, str]:
    """Return the job's environment; without NVIDIA_VISIBLE_DEVICES, enroot adds no GPUs to a container."""
    if job.gpus and job.has_runtime:
        return {"NVIDIA_VISIBLE_DEVICES": "all", **job.environment}
    return dict(job.environment)


def _container(job: Job) -> list[str]:
    """Return the options of pyxis; enroot before 4.1 accepts a digest only in place of the tag."""
    registry, _, repository = job.image.repository.partition("/")
    image = f"{registry}#{repository}:sha256:{job.image.digest}"
    mounts = ",".join(f"{folder}:{path}" for path, folder in job.folders.items())
    return [
        f"--container-image={f'{_IMAGES}/{squashfs_name(job.image)}' if job.is_squashfs else image}",
        *([shlex.quote(f"--container-mounts={mounts}")] if mounts else []),
        f"--container-workdir={job.launch.folder}",
        "--no-container-mount-home",
    ]


def _start(job: Job) -> list[str]:
    """Return the runner's command line for one node of the job."""
    if job.joins_nodes:
        return ["sh", "-c", r'"exec env RANK=\"\$SLURM_PROCID\" \"\$@\""', "sh"]
    if job.launch.runner != "torchrun":
        return []  # srun starts every process itself
    program, *options = torchrun(
        '--nnodes="$SLURM_JOB_NUM_NODES"',
        f"--nproc-per-node={job.processes}",
        '--rdzv-id="$SLURM_JOB_ID"',
        "--rdzv-backend=c10d",
        f'--rdzv-endpoint="$head:{PORT}"',
    )
    return [program, *options] if job.has_runtime else ["python", "-m", "torch.distributed.run", *options]


def _program(job: Job) -> list[str]:
    if job.has_runtime:
        return [shlex.quote(word) for word in job.program]
    own = [_on_node(job, word) for word in job.launch.command]
    return own + [shlex.quote(_in_folder(job, word)) for word in job.arguments]


def _on_node(job: Job, word: str) -> str:
    """Quote a word of the target's command; prefix a path in the image with the unpacked image's folder."""
    found = _in_folder(job, word)
    return f'"$root"{shlex.quote(found)}' if found == word and word.startswith("/") else shlex.quote(found)


def _in_folder(job: Job, word: str) -> str:
    """Replace the mount path at the start of a word with the folder of the mount on the nodes."""
    for path, folder in job.folders.items():
        if word == path or word.startswith(f"{path}/"):
            return folder + word.removeprefix(path)
    return word


def _unpacked(job: Job) -> list[str]:
    """Return shell lines that enter the unpacked image and export its variables that contain no slash."""
    return [
        "root=${IMAGE_ROOT:?must name the folder of the unpacked image, on every node}",
        f'cd "$root{job.launch.folder}"',
        "while IFS= read -r variable; do",
        '    case $variable in */*) ;; *=*) export "${variable?}" ;; esac',
        'done < "$root/etc/environment"',
        "export PATH=$root/opt/venv/bin:$PATH",
    ]


def docker(job: Job) -> str:
    """Return a script that starts the container of one node."""
    options = [
        "--rm",
        "--init",
        "--network=host",
        '--user="$(id -u):$(id -g)"',
        "--cap-drop=ALL",
        *(f"--cap-add={name}" for name in job.capabilities),
        "--security-opt=no-new-privileges",
        f"--shm-size={job.launch.shared_memory_gib}g",
        *(["--ulimit=memlock=-1"] if job.gpus or job.devices else []),
        *(["--gpus=all"] if job.gpus else []),
        *(f"--device={device}" for device in job.devices),
        *(shlex.quote(f"--env={name}={value}") for name, value in job.environment.items()),
        *(_docker_ranks(job) if job.joins_nodes else ()),
        *(f"--volume={shlex.quote(folder)}:{path}" for path, folder in job.folders.items()),
    ]
    parts = [
        "#!/bin/sh",
        *(f"# {line}" for line in job.header),
        *_usage(job),
        "set -eu",
        "",
        *(f"mkdir -p {shlex.quote(folder)}" for folder in job.folders.values()),
    ]
    command = [*_docker_start(job), *(shlex.quote(word) for word in job.program), '"$@"']
    return "\n".join([*parts, _lines(["exec docker run", *options], [job.image.name, *command])]) + "\n"


def _usage(job: Job) -> list[str]:
    if job.nodes == 1:
        return [f"# Run it: sh {job.image.target}.sh [ARGUMENTS OF THE PROGRAM]"]
    if job.launch.runner == "node":
        return [
            f"# Run it on every node: HEAD_NODE=HOST RANK=N sh {job.image.target}.sh [ARGUMENTS]",
            "# HOST is the name of the first node, N is 0 on the first node, 1 on the next, and so on.",
        ]
    return [
        f"# Run it on every node: HEAD_NODE=HOST JOB_ID=NAME sh {job.image.target}.sh [ARGUMENTS]",
        "# HOST is the name of the first node, NAME the same new name on all nodes.",
    ]


def _docker_start(job: Job) -> Sequence[str]:
    if job.launch.runner == "mpirun":
        return ["mpirun", "--oversubscribe", "-np", str(job.processes)]
    if job.launch.runner != "torchrun":
        return []
    if job.nodes == 1:
        return torchrun("--standalone", f"--nproc-per-node={job.processes}")
    return torchrun(
        f"--nnodes={job.nodes}",
        f"--nproc-per-node={job.processes}",
        '--rdzv-id="${JOB_ID:?must be the same new name on all nodes}"',
        "--rdzv-backend=c10d",
        f'--rdzv-endpoint="{_HEAD_NODE}"',
    )


def _docker_ranks(job: Job) -> list[str]:
    return [
        '--env=RANK="${RANK:?must be 0 on the first node, 1 on the next}"',
        f"--env=WORLD_SIZE={job.nodes}",
        f'--env={HEAD}="{_HEAD_NODE}"',
    ]


def _lines(*commands: Sequence[str]) -> str:
    """Return the words as one command, one word per line."""
    return " \\\n    ".join(word for words in commands for word in words)
