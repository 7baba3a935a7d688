"""Checks of the image smddp-deepspeed: the library of the vendor, and the message without DeepSpeed."""

import pytest
from checks.training import AS_NOBODY, TRAIN, trained_with

FOUND = "import importlib.util as util; print(util.find_spec('smdistributed.dataparallel') is not None)"


def test_help_shows_the_exit_codes(host):
    assert "65 data" in host.check_output(f"timeout 60 {AS_NOBODY} python3 {TRAIN} --help")


def test_smddp_library_is_installed(host):
    assert host.check_output("python3 -c %s", FOUND) == "True"


def test_folder_without_deepspeed_is_refused_in_one_line(host):
    command = f"python3 {TRAIN} --smoke --device cpu --packages /nonexistent"
    ended = host.run(f"RANK=0 WORLD_SIZE=1 timeout 120 {AS_NOBODY} {command}")
    assert ended.rc == 78
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith(("error", "Traceback"))]
    assert line.startswith("error: /nonexistent: has no DeepSpeed; install it there")


@pytest.mark.needs("gpu")
def test_two_gpus_train_with_the_mounted_deepspeed(host):
    assert trained_with(host, "--zero-stage", "3")["device"] == "cuda"
