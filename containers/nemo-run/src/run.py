"""Runs the training program of the image as an experiment of NeMo-Run: on this machine, or as a Slurm job."""

import argparse
import sys
from collections.abc import Sequence

from training.errors import EXIT_CRASHED
from training.options import positive_int, run_program

# The same path on this machine and in the containers of a Slurm job.
PROGRAM = "/opt/workload/train.py"
CPU_PROCESSES = 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run the training program as an experiment of NeMo-Run.",
        epilog="All other arguments are passed to train.py; see train.py --help.\n\n"
        "exit codes: 0 done; 2 options; 78 configuration; 1 the experiment failed, its log has the reason",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=positive_int,
        metavar="N",
        help=f"processes per node (default of local: one per GPU, or {CPU_PROCESSES})",
    )
    parser.add_argument("--name", default="train", help="name of the experiment (default: %(default)s)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the command or the sbatch file, and start nothing"
    )
    slurm = parser.add_argument_group("slurm")
    slurm.add_argument("--nodes", type=positive_int, default=1, metavar="N", help="(default: %(default)s)")
    slurm.add_argument("--account", help="account of the job")
    slurm.add_argument("--partition", help="partition of the job")
    slurm.add_argument("--time", default="24:00:00", help="time limit of the job (default: %(default)s)")
    slurm.add_argument("--image", help="container image of the job, as pyxis names it")
    slurm.add_argument(
        "--mount", action="append", default=[], metavar="FROM:TO", help="folder of the nodes in the container"
    )
    options, options.program_arguments = parser.parse_known_args(argv)
    needed = ("account", "partition", "image", "processes")
    missing = [f"--{name}" for name in needed if not getattr(options, name)]
    if options.executor == "slurm" and missing:
        parser.error(f"--executor slurm needs {', '.join(missing)}")
    return options


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    return run_program(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Run the experiment, or submit it to Slurm; return 0 if it did not fail."""
    # Imported late, so that --help and invalid options work without loading NeMo-Run.
    import nemo_run
    from torchx.specs import AppState

    script = nemo_run.Script(path=PROGRAM, args=options.program_arguments, entrypoint="python")
    with nemo_run.Experiment(options.name) as experiment:
        experiment.add(script, executor=make_executor(options), name=options.name)
        if options.dry_run:
            experiment.dryrun()
            return 0
        is_job = options.executor == "slurm"
        experiment.run(detach=is_job, tail_logs=not is_job)
    # A local experiment is waited for at the end of the block.
    has_succeeded = is_job or [job.state for job in experiment.jobs] == [AppState.SUCCEEDED]
    return 0 if has_succeeded else EXIT_CRASHED


def make_executor(options: argparse.Namespace) -> object:
    import nemo_run
    import torch

    if options.executor == "local":
        processes = options.processes or torch.cuda.device_count() or CPU_PROCESSES
        return nemo_run.LocalExecutor(ntasks_per_node=processes, launcher="torchrun")
    return nemo_run.SlurmExecutor(
        account=options.account,
        partition=options.partition,
        time=options.time,
        nodes=options.nodes,
        ntasks_per_node=options.processes,
        gpus_per_node=options.processes,
        container_image=options.image,
        container_mounts=options.mount,
        launcher="torchrun",
        # The program is in the image; NeMo-Run's default packager would pack the current git repository.
        packager=nemo_run.Packager(),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
