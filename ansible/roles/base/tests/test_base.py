"""Checks of the role base: training user, locale, time zone, no automatic upgrades."""

import pytest

UPGRADERS = {
    "debian": ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"),
    "redhat": ("dnf-automatic.timer", "dnf-automatic-install.timer", "dnf-makecache.timer"),
}
SETTINGS = "apt-config dump --format '%f=%v%n' | sed -n 's/^APT::Periodic:://p'"


def test_training_user_has_the_configured_account(host, expected):
    variables = expected.variables
    user = host.user(variables["base_user"])
    assert user.uid == user.gid == variables["base_uid"]
    assert user.group == variables["base_user"]
    assert user.shell == variables["base_shell"]
    home = host.file(user.home)
    assert home.is_directory
    assert home.user == variables["base_user"]


def test_training_user_can_write_to_home(host, expected):
    user = expected.variables["base_user"]
    assert host.run("su - %s -c 'touch .probe && rm .probe'", user).rc == 0


def test_training_user_has_no_password(host, expected):
    assert host.user(expected.variables["base_user"]).password in ("!", "!!", "*")


def test_session_has_utf8_locale(host, expected):
    wanted = expected.variables["base_locale"]
    run = host.run("env -u LC_ALL -u LANG bash -lc 'echo $LANG; locale charmap'")
    assert run.stdout.split() == [wanted, "UTF-8"]
    assert wanted.lower().replace("-", "") in host.check_output("locale -a").lower().replace("-", "").split()


def test_cuda_container_requests_gpus_and_driver_libraries(host, expected):
    # enroot adds no GPU unless NVIDIA_VISIBLE_DEVICES is set; container runtimes add no CUDA libraries unless
    # NVIDIA_DRIVER_CAPABILITIES has compute.
    # An image for CPUs may have the wheels for CUDA, if no others exist.
    has_cuda = any(name == "cuda" or name.startswith("nvidia-cuda-") for name in expected.versions)
    is_container = expected.capabilities.get("is_container")
    if has_cuda and is_container and expected.capabilities.get("is_for_nvidia_gpus"):
        environment = host.environment()
        assert environment.get("NVIDIA_VISIBLE_DEVICES") == "all"
        assert {"compute", "utility"} <= set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(","))


def test_login_shell_keeps_a_locale_that_is_already_set(host):
    assert host.check_output("env LANG=C bash -lc 'echo $LANG'") == "C"


def test_time_zone_is_set(host, expected):
    zone = expected.variables["base_timezone"]
    assert host.file("/etc/localtime").linked_to.endswith(zone)
    assert host.check_output("date +%z") == host.check_output("TZ=%s date +%%z", zone)


def test_sudo_matches_the_setting(host, expected):
    variables = expected.variables
    allowed = host.run("su %s -s /bin/sh -c 'sudo -n true'", variables["base_user"]).rc == 0
    assert allowed is variables["base_sudo"]
    if variables["base_sudo"]:
        assert host.run("visudo --check --strict").rc == 0


@pytest.mark.needs("has_systemd")
def test_automatic_upgrades_are_disabled(host, expected):
    units = UPGRADERS[expected.capabilities["system_family"]]
    states = {unit: host.run("systemctl is-enabled %s", unit).stdout.strip() for unit in units}
    assert set(states.values()) == {"masked"}, states
    if expected.capabilities["system_family"] == "debian":
        settings = dict(line.split("=", 1) for line in host.check_output(SETTINGS).splitlines())
        assert settings["Enable"] == settings["Unattended-Upgrade"] == "0"


@pytest.mark.needs("has_systemd")
def test_upgrades_do_not_restart_services(host, expected):
    # needrestart reads its configuration files in order; the last value wins.
    if expected.capabilities["system_family"] == "debian":
        output = host.check_output("sed -n 's/^[^#]*nrconf{restart} *= *//p' /etc/needrestart/conf.d/*.conf")
        assert output.splitlines()[-1] == "'l';"
