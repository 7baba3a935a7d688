"""Checks of the image gpu-healthcheck: checks pass on a machine without GPUs, and need only Python."""

import json

AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent"
CHECK = "/usr/bin/python3 /opt/workload/healthcheck.py"


def test_a_machine_without_gpus_is_healthy(host):
    found = json.loads(host.check_output(f"timeout 60 {AS_NOBODY} {CHECK} --json"))
    assert (found["healthy"], found["action"]) == (True, "not a GPU machine")


def test_missing_gpus_of_an_ec2_type_are_reported(host):
    ended = host.run(f"timeout 60 {AS_NOBODY} {CHECK} --json --instance p5.48xlarge")
    assert (ended.rc, json.loads(ended.stdout)["action"]) == (5, "isolate")


def test_image_has_no_virtual_environment(host):
    assert not host.file("/opt/venv").exists
