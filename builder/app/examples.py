"""Examples of every command, for its --help and for the manual page; a test parses each one.

An example may end in a comment (`# PURPOSE`).
"""

from collections.abc import Iterable, Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "list": ("builder list", "builder list --names  # for scripts"),
    "show": ("builder show pytorch-fsdp", "builder show ami-gpu --flavour debian-12"),
    "plan": ("builder plan cpu-ddp", "builder plan 'ami-*' --site aws --publish"),
    "build": (
        "builder build cpu-ddp",
        "builder build --all --kind container --publish",
        "builder build cpu-ddp --rebuild workload  # although nothing has changed",
        "builder build ami-gpu --no-checkpoints  # from the source image",
        "builder build cpu-ddp --reproduce  # to check that two builds give the same image",
        "builder build cpu-ddp --keep-failed  # to look into the container or instance of a failure",
    ),
    "check": (
        "builder check cpu-ddp:cpu-debian-12",
        "builder check my-image:1 --target cpu-ddp",
        "builder check my-image:1 --target cpu-ddp --only openmpi --details",
    ),
    "lint": ("builder lint path/to/repository", "builder lint containers --sarif > lint.sarif"),
    "logs": ("builder logs", "builder logs cpu-ddp  # its newest run", "builder logs --follow"),
    "squashfs": ("builder squashfs cpu-ddp -o /fsx/images",),
    "run": (
        "builder run cpu-ddp -- --steps 200",
        "builder run cpu-ddp --processes 4 --mount checkpoints=/data/ddp -- --steps 200",
    ),
    "init site": ("builder init site", "builder init site --account 111122223333 --region us-east-1"),
    "init target": ("builder init target my-target", "builder init target my-node --kind ami"),
    "init component": ("builder init component my_tool",),
    "init stack": ("builder init stack cpu-debian-12-mine --from cpu-debian-12",),
    "role": ("builder role limits --twice", "builder role nccl --kind container --keep"),
    "stack list": ("builder stack list",),
    "stack show": ("builder stack show cuda-13.0",),
    "stack check": (
        "builder stack check cuda-13.0 --instance p5en.48xlarge",
        "builder stack check --set efa=1.28.0 --set nccl=2.19.3",
    ),
    "stack solve": ("builder stack solve --instance p5en.48xlarge --torch 2.10",),
    "stack diff": ("builder stack diff cuda-12.8 cuda-13.0",),
    "lock": (
        "builder lock my-target  # compile its requirements.in, lock what its default flavour downloads",
        "builder lock ami-gpu --flavour ubuntu-24.04",
        "builder lock --update debian-12 --diff",
    ),
    "ami list": ("builder ami list", "builder ami list --site aws --json"),
    "ami show": ("builder ami show ami-cpu",),
    "ami copy": ("builder ami copy ami-cpu --region eu-west-1",),
    "ami share": ("builder ami share ami-cpu --account 123456789012",),
    "ami deprecate": ("builder ami deprecate ami-0123456789abcdef0 --after 90",),
    "ami publish": ("builder ami publish ami-cpu",),
    "ami retire": ("builder ami retire ami-0123456789abcdef0",),
    "launch": (
        "builder launch pytorch-fsdp --on slurm --instance p5.48xlarge --nodes 4 > train.sbatch",
        "builder launch pytorch-fsdp --on kubernetes --as trainjob --instance p5.48xlarge --nodes 4 -o jobs",
        "builder launch cpu-ddp --on slurm --instance hpc7a.96xlarge --nodes 2 -- --steps 200",
        "builder launch --check train.sbatch  # after an edit",
    ),
    "deploy parameters": ("builder deploy parameters batch ami-batch-gpu",),
    "deploy plan": ("builder deploy plan vpc Zones=us-east-1a",),
    "deploy apply": ("builder deploy apply vpc Zones=us-east-1a",),
    "deploy delete": ("builder deploy delete vpc",),
    "iam": ("builder iam ami-cpu > policy.json",),
    "config": ("builder config",),
    "doctor": ("builder doctor", "builder doctor --site aws"),
    "clean": (
        "builder clean",
        "builder clean --keep-last 5 --older-than 14d --max-size 20G --yes",
        "builder clean --site aws --everything",
    ),
    "registry up": ("builder registry up",),
    "registry down": ("builder registry down",),
    "registry status": ("builder registry status",),
    "rehearse up": ("builder rehearse up", "builder rehearse up --name second --services s3,batch"),
    "rehearse down": ("builder rehearse down",),
    "rehearse status": ("builder rehearse status",),
    "rehearse env": ('eval "$(builder rehearse env)"',),
    "rehearse cluster up": (
        "builder rehearse cluster up --instance p5.48xlarge --nodes 2",
        "builder rehearse cluster up --name small --instance m7i.4xlarge --shared /scratch/jobs",
    ),
    "rehearse cluster down": ("builder rehearse cluster down",),
    "rehearse cluster status": ("builder rehearse cluster status",),
    "rehearse cluster exec": (
        "builder rehearse cluster exec -- sbatch --test-only pytorch-fsdp.sbatch",
        "builder rehearse cluster exec -- squeue",
    ),
    "completion": ("source <(builder completion bash)",),
}


def epilog(examples: Iterable[str]) -> str:
    """Return the last part of a help text."""
    lines = list(examples)
    if not lines:
        return ""
    return "\n".join(["example:" if len(lines) == 1 else "examples:", *(f"  {line}" for line in lines)])
