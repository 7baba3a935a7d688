"""Checks of the image verl: the program prints its settings, and libraries have the locked versions."""

from checks import distributions

PYTHON = "/opt/venv/bin/python"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp"


def test_settings_of_the_program_are_printed(host):
    command = f"cd /tmp && timeout 300 {AS_NOBODY} {PYTHON} -m verl.trainer.main_ppo --cfg job"
    assert "adv_estimator" in host.check_output(command)


def test_libraries_have_the_locked_versions(host, expected):
    found = distributions(host, PYTHON)
    assert {name: found[name] for name in ("verl", "vllm", "ray")} == {
        name: expected.versions[name] for name in ("verl", "vllm", "ray")
    }
