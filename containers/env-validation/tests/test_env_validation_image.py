"""Checks of the image env-validation: validate.py passes, and fails if required devices are missing."""

import json

AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent"
VALIDATE = "/opt/venv/bin/python /opt/workload/validate.py"


def validate(host, options=""):
    ended = host.run(f"timeout 170 {AS_NOBODY} {VALIDATE} --json {options}")
    return ended.rc, json.loads(ended.stdout)


def test_all_checks_of_the_environment_pass(host, expected):
    code, found = validate(host)
    assert (code, found["failed"]) == (0, [])
    outcomes = {check["name"]: check["outcome"] for check in found["checks"]}
    assert outcomes["torch"] == outcomes["libfabric"] == outcomes["all-reduce"] == "passed"
    assert found["facts"]["torch"]["version"].startswith(expected.versions["torch"].partition("+")[0])


def test_loaded_nccl_has_the_locked_version(host, expected):
    _, found = validate(host, "--ranks 1")
    locked = expected.versions.get("nvidia-nccl-cu13")
    assert found["facts"]["nccl"]["runtime"] == ([locked] if locked else [])


def test_missing_devices_fail_if_options_require_them(host):
    code, found = validate(host, "--gpus 99 --efa 99 --ranks 1")
    assert code == 5
    assert set(found["failed"]) >= {"gpus", "efa"}


def test_text_output_has_a_line_for_each_check(host):
    ended = host.run(f"timeout 170 {AS_NOBODY} {VALIDATE} --ranks 1")
    assert ended.rc == 0
    assert {line.split()[0] for line in ended.stdout.splitlines()} >= {
        "torch",
        "nccl",
        "gpus",
        "efa",
        "preload",
    }
