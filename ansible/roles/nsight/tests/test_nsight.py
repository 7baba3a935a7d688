"""Checks of the profilers: the pinned releases, found on PATH, held at their version."""

import pytest
from checks import held


@pytest.fixture
def releases(expected):
    return dict(zip(("systems", "compute"), expected.versions["nsight"].split("-"), strict=True))


def test_programs_have_the_pinned_releases(host, releases):
    assert releases["systems"] in host.check_output("nsys --version")
    assert releases["compute"] in host.check_output("ncu --version")


def test_packages_are_held(host, releases):
    assert [name for name, version in releases.items() if not held(host, f"nsight-{name}-{version}")] == []


def test_a_program_can_be_traced(host):
    command = "nsys profile --trace=none --sample=none --output=/tmp/trace --force-overwrite=true true"
    assert host.run(f"{command} && rm -f /tmp/trace.*").rc == 0
