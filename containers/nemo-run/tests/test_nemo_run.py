"""Checks of the image nemo-run: an experiment trains locally, reports a failure, or becomes a Slurm job."""

from checks.training import (  # noqa: F401
    AS_NOBODY,
    PYTHON,
    WORKLOAD,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)

SLURM = "--executor slurm --account team --partition gpu --nodes 4 --processes 8 --image /fsx/a.sqsh"


def run(host, arguments):
    command = f"{AS_NOBODY} OMP_NUM_THREADS=1 COLUMNS=400 {PYTHON} run.py {arguments}"
    ended = host.run(f"cd {WORKLOAD} && timeout 400 {command}")
    return ended.rc, ended.stdout + ended.stderr


def test_experiment_trains_on_two_ranks(host):
    code, output = run(host, "--smoke --device cpu --steps 10")
    assert code == 0, output
    assert '"finished": true' in output
    assert '"world_size": 2' in output


def test_failed_experiment_prints_the_message_of_the_program_and_fails(host):
    code, output = run(host, "--smoke --device cpu --data /nonexistent")
    assert code == 1
    assert "error: /nonexistent: no such file or folder on this node" in output


def test_dry_run_prints_the_sbatch_file_of_a_slurm_job(host):
    code, output = run(host, f"{SLURM} --dry-run --model 125m")
    assert code == 0, output
    output = " ".join(output.split())
    for part in (
        "#SBATCH --nodes=4",
        "--container-image /fsx/a.sqsh",
        "--nproc-per-node 8",
        "train.py --model",
    ):
        assert part in output


def test_command_nemo_prints_its_help(host):
    assert host.run("timeout 200 /opt/venv/bin/nemo --help").rc == 0
