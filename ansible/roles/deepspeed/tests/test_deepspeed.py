"""Checks of DeepSpeed: the locked version, importable without a compiler."""


def test_deepspeed_has_the_locked_version(host, expected):
    python = expected.variables["deepspeed_path"] + "/bin/python"
    (line,) = expected.variables["deepspeed_source_packages"]
    code = "import deepspeed; print(deepspeed.__version__)"
    found = host.check_output("cd / && DS_ACCELERATOR=cpu HOME=/tmp timeout 200 %s -B -c %s", python, code)
    assert found.splitlines()[-1] == line.split()[0].removeprefix("deepspeed==")
