"""Checks of the Neuron environment: exactly the locked packages, from the vendor's index."""

import re

import pytest
from checks import distributions

# Module of each distribution. PyPI has placeholder packages with the same names but without modules.
MODULES = {
    "neuronx-cc": "neuronxcc",
    "neuronx-distributed": "neuronx_distributed",
    "torch-neuronx": "torch_neuronx",
}


@pytest.fixture(scope="module")
def folder(expected):
    return expected.variables["neuron_framework_path"]


@pytest.fixture(scope="module")
def found(host, folder):
    return distributions(host, f"{folder}/bin/python")


def test_only_the_locked_packages_are_installed(expected, found):
    lines = expected.variables["neuron_framework_requirements"]
    locked = dict(line.split()[0].rstrip(";").split("==") for line in lines)
    assert found == {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}


def test_packages_are_not_placeholders(host, expected, folder):
    for name in expected.variables["neuron_framework_vendor"]:
        query = f"import importlib.util as util; print(util.find_spec('{MODULES[name]}') is not None)"
        assert host.check_output("%s -I -c %s", f"{folder}/bin/python", query) == "True"


def test_neuron_packages_are_from_the_vendor(found):
    assert [name for name, version in found.items() if "neuron" in name and "+" not in version] == []


def test_session_uses_the_environment(host, folder):
    assert host.check_output("bash -lc 'command -v python'") == f"{folder}/bin/python"


def test_all_users_can_read_and_only_root_can_write(host, folder):
    assert host.check_output("find %s ! -user root -o -perm -0002 ! -type l", folder) == ""
    assert host.run("su -s /bin/sh nobody -c %s", f"{folder}/bin/python -c 'import sys'").rc == 0


def test_no_pip_index_is_configured(host, folder):
    # A configured index would affect later installations by users.
    paths = f"/etc/pip.conf /root/.pip /root/.config/pip /home/*/.config/pip {folder}/pip.conf"
    assert host.run(f"ls -d {paths} 2>/dev/null").stdout == ""
