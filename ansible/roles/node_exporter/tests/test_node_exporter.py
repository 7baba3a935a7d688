"""The exporter of machine metrics: the pinned version, off until somebody asks for it, and it answers."""

import pytest
from checks import held, package_version
from checks.exporters import is_enabled, problems, scrape, started


def unit_of(expected):
    return expected.variables["node_exporter_unit"] + ".service"


def test_exact_version(host, expected):
    wanted = expected.versions["node_exporter"]
    run = host.run("%s --version", expected.variables["node_exporter_program"])
    assert f"version {wanted.partition('-')[0]}" in run.stdout + run.stderr


def test_package_is_held(host, expected):
    if expected.capabilities["system_family"] == "debian":
        assert package_version(host, "prometheus-node-exporter") == expected.versions["node_exporter"]
        assert held(host, "prometheus-node-exporter")


def test_program_cannot_be_replaced(host, expected):
    program = host.file(expected.variables["node_exporter_program"])
    assert (program.user, program.mode) == ("root", 0o755)


@pytest.mark.needs("has_systemd")
def test_starts_at_boot_only_if_asked_for(host, expected):
    wanted = "enabled" if expected.variables["node_exporter_at_boot"] else "disabled"
    assert is_enabled(host, unit_of(expected)) == wanted
    # Packages start what they install; an image is made without that.
    assert wanted == "enabled" or host.run("systemctl is-active --quiet %s", unit_of(expected)).rc != 0


@pytest.mark.needs("has_systemd")
def test_unit_is_sound(host, expected):
    assert problems(host, unit_of(expected)) == ""


@pytest.mark.needs("has_systemd")
def test_answers_prometheus(host, expected):
    with started(host, unit_of(expected)):
        metrics = scrape(host, expected.variables["node_exporter_port"])
    assert "node_cpu_seconds_total" in metrics
    assert "node_textfile_scrape_error 0" in metrics
