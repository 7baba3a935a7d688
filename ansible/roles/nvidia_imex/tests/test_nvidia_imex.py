"""Checks of IMEX: the driver's version, started at boot only if its nodes are configured."""

import shlex

import pytest
from checks import held, package_version

UNIT = "nvidia-imex.service"
NODES = "/etc/nvidia-imex/nodes_config.cfg"
DROP_IN = "/etc/systemd/system/nvidia-imex.service.d/10-image.conf"


@pytest.fixture
def package(host):
    path = host.check_output("readlink -f $(command -v nvidia-imex)")
    if host.exists("dpkg-query"):
        return host.check_output("dpkg-query --search %s", path).partition(":")[0]
    return host.check_output("rpm --query --queryformat '%%{NAME}' --file %s", path)


def test_version_matches_the_driver(host, expected, package):
    driver = expected.versions["nvidia_driver"].partition("-")[0]
    assert package_version(host, package).rpartition(":")[2].partition("-")[0] == driver


def test_package_is_held(host, package):
    assert held(host, package)


def test_service_is_enabled_at_boot(host):
    assert host.check_output("systemctl is-enabled %s", UNIT) == "enabled"


@pytest.mark.parametrize(("nodes", "code"), [("", 1), ("# 10.0.0.1\n\n  \n", 1), ("# nodes\n10.0.0.1\n", 0)])
def test_service_requires_configured_nodes(host, nodes, code):
    line = next(
        line for line in host.file(DROP_IN).content_string.splitlines() if line.startswith("ExecCondition=")
    )
    words = shlex.split(line.partition("=")[2])
    assert words[-1] == NODES
    path = host.check_output("mktemp")
    try:
        host.check_output("printf %s > %s", nodes, path)
        assert host.run(shlex.join([*words[:-1], path])).rc == code
    finally:
        host.check_output("rm %s", path)


def test_image_has_no_configured_nodes(host):
    lines = [line.strip() for line in host.file(NODES).content_string.splitlines()]
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_unit_is_valid(host):
    run = host.run("systemd-analyze verify %s", UNIT)
    assert (run.rc, run.stdout + run.stderr) == (0, "")


@pytest.mark.needs("gpu", "imex")
def test_imex_domain_is_up(host):
    assert "UP" in host.check_output("nvidia-imex-ctl -N")
