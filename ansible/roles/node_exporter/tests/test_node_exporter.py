"""Checks of node_exporter: the pinned version, enabled only if set, serving metrics."""

import pytest
from checks import held, package_version
from checks.exporters import is_enabled, problems, scrape, started


def unit_of(expected):
    return expected.variables["node_exporter_unit"] + ".service"


def test_program_has_the_pinned_version(host, expected):
    wanted = expected.versions["node_exporter"]
    run = host.run("%s --version", expected.variables["node_exporter_program"])
    assert f"version {wanted.partition('-')[0]}" in run.stdout + run.stderr


def test_package_is_held(host, expected):
    if expected.capabilities["system_family"] == "debian":
        assert package_version(host, "prometheus-node-exporter") == expected.versions["node_exporter"]
        assert held(host, "prometheus-node-exporter")


def test_only_root_can_write_the_program(host, expected):
    program = host.file(expected.variables["node_exporter_program"])
    assert (program.user, program.mode) == ("root", 0o755)


@pytest.mark.needs("has_systemd")
def test_service_matches_the_setting(host, expected):
    wanted = "enabled" if expected.variables["node_exporter_at_boot"] else "disabled"
    assert is_enabled(host, unit_of(expected)) == wanted
    # The package must not have started the service during the build.
    assert wanted == "enabled" or host.run("systemctl is-active --quiet %s", unit_of(expected)).rc != 0


@pytest.mark.needs("has_systemd")
def test_unit_is_valid(host, expected):
    assert problems(host, unit_of(expected)) == ""


@pytest.mark.needs("has_systemd")
def test_exports_metrics(host, expected):
    with started(host, unit_of(expected)):
        metrics = scrape(host, expected.variables["node_exporter_port"])
    assert "node_cpu_seconds_total" in metrics
    assert "node_textfile_scrape_error 0" in metrics
