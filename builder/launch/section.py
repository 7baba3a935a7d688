"""The `[launch]` section of a target: how its training program starts. Knows neither engine nor cluster."""

from collections.abc import Mapping, Sequence

from builder.model import Launch, Plan
from builder.patterns import WORD, misfits
from builder.tables import FLAG, LIST, NUMBER, STRINGS, TEXT, Problems, Shape, Table, fits, tuples

_SHAPE: Shape = {
    "runner": (TEXT, True),
    "command": (LIST, True),
    "first_run": (LIST, False),
    "mounts": (STRINGS, False),
    "shared_memory_gib": (NUMBER, False),
    "folder": (TEXT, False),
    "without": (STRINGS, False),
    "any_instance": (FLAG, False),
}


def torchrun(*options: str) -> tuple[str, ...]:
    """Return the torchrun command; without `--`, torchrun rejects an option --n of the program."""
    return ("torchrun", *options, "--")


# Command line of each runner on one machine; {processes} is a number, or "gpu" for one process per GPU.
RUNNERS: Mapping[str, Sequence[str]] = {
    "torchrun": torchrun("--standalone", "--nproc-per-node", "{processes}"),
    "mpirun": ("mpirun", "--oversubscribe", "-np", "{processes}"),
    "ray": (),  # the program starts Ray itself, or joins the cluster that an operator has started
    "node": (),  # one process for each node of the job
    "none": (),  # one process for the job
}
# Launchers by their name in `builder launch --on`.
LAUNCHERS: Mapping[str, str] = {
    "slurm": "Slurm with pyxis",
    "docker": "Docker on EC2 instances",
    "kubernetes": "Kubernetes",
    "batch": "AWS Batch",
    "hyperpod-slurm": "SageMaker HyperPod with Slurm",
    "hyperpod-eks": "SageMaker HyperPod with EKS",
    "pcs": "AWS Parallel Computing Service",
}


def read_launch(launch: Table, target: Table, file: str, problems: Problems) -> Launch | None:
    """Validate a launch section and return it; None if it has a problem."""
    if not target.get("workload"):
        problems.add(file, "launch", "needs a workload, whose program it starts")
    if not fits(launch, _SHAPE, file, "launch.", problems):
        return None
    if launch["runner"] not in RUNNERS:
        problems.unknown(file, "launch.runner", "runner", launch["runner"], RUNNERS)
    if not launch["command"]:
        problems.add(file, "launch.command", "must not be empty")
    if launch.get("shared_memory_gib", 1) < 1:
        problems.add(file, "launch.shared_memory_gib", "must be at least 1")
    for name in launch.get("mounts", {}):
        if not WORD.fullmatch(name):  # `builder run` makes it the name of a folder on the host
            problems.add(file, f"launch.mounts.{name}", f"the name of a mount must match {WORD.pattern}")
    for name in launch.get("without", {}):
        if name not in LAUNCHERS:
            problems.unknown(file, "launch.without", "launcher", name, LAUNCHERS)
    for key, reason in misfits("launch", launch):
        problems.add(file, f"launch.{key}", reason)
    return Launch(**tuples(launch))


def command_line(launch: Launch, *, processes: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line of a training program on one machine, followed by the user's arguments."""
    runner = [word.format(processes=processes) for word in RUNNERS[launch.runner]]
    return [*runner, *launch.command, *arguments]


def flavour_option(plan: Plan) -> str:
    """Return the option that selects the plan's flavour; "" for the default flavour."""
    return "" if plan.flavour == plan.target.default else f" --flavour {plan.flavour.name}"
