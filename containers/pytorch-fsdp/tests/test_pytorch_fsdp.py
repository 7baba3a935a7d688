"""Checks of the image pytorch-fsdp: the program starts and survives the loss of a rank."""

import json

PYTHON = "/opt/venv/bin/python"
WORKLOAD = "/opt/workload"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent"


def test_torch_has_the_pinned_version(host, expected):
    found = host.check_output(f"{PYTHON} -c 'import torch; print(torch.__version__)'")
    pinned = expected.versions["torch"]
    assert (found if "+" in pinned else found.partition("+")[0]) == pinned


def test_parameter_counts_match_the_models(host):
    script = (
        "import torch; from llama import Llama; from llama_config import CONFIGS; "
        "torch.set_default_device('meta'); "
        "print([name for name, config in CONFIGS.items()"
        " if sum(p.numel() for p in Llama(config).parameters()) != config.parameters])"
    )
    assert host.check_output("cd %s && timeout 120 %s -c %s", WORKLOAD, PYTHON, script) == "[]"


def test_prints_the_config_of_the_largest_model(host):
    printed = host.check_output(f"timeout 30 {PYTHON} {WORKLOAD}/train.py --model 70b --print-config")
    assert json.loads(printed)["parameters"] == 70_553_706_496


def test_modules_can_be_imported(host):
    command = f"cd {WORKLOAD} && {PYTHON} -c 'import llama, sharded, smoke, train, training.loop'"
    assert host.run(command).stderr == ""


def test_path_starts_with_the_virtual_environment(host):
    assert host.find_command("python") == PYTHON
    assert host.find_command("torchrun") == "/opt/venv/bin/torchrun"


def test_only_root_can_write_the_program(host):
    found = host.check_output(f"find {WORKLOAD} ! -user root -o -perm /002 ! -type l")
    assert found == ""


def test_help_shows_the_torchrun_command(host):
    text = host.check_output(f"timeout 30 {AS_NOBODY} {PYTHON} {WORKLOAD}/train.py --help")
    assert "torchrun --standalone" in text


def test_start_without_torchrun_fails_with_a_one_line_error(host):
    ended = host.run(f"timeout 60 {PYTHON} {WORKLOAD}/train.py --smoke")
    assert ended.rc == 1
    assert ended.stderr.startswith("error: this program must be started by torchrun")
    assert ended.stderr.count("\n") == 1


def test_training_resumes_after_a_rank_is_killed(host):
    ended = host.run(
        f"timeout 170 {AS_NOBODY} {PYTHON} {WORKLOAD}/smoke.py --timeout-s 150 {WORKLOAD}/train.py"
        " --device cpu --async-checkpoint"
    )
    assert ended.rc == 0, ended.stderr
    outcome = json.loads(ended.stdout)
    result = outcome["result"]
    assert outcome["resumed_from_step"] > 0
    assert result["resumed_from_step"] == outcome["resumed_from_step"]
    assert result["restarts"] == 1
    assert result["world_size"] == 2
    assert result["last_loss"] < result["first_loss"] / 2
    assert result["throughput"] > 0
