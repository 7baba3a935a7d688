"""The environment for Neuron: exactly as locked, from the vendor's index, no index left behind."""

import re

import pytest
from checks import distributions

# Distribution → module. A placeholder of the Python index has the name and no module.
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


def test_exactly_what_was_locked(expected, found):
    lines = expected.variables["neuron_framework_requirements"]
    locked = dict(line.split()[0].rstrip(";").split("==") for line in lines)
    assert found == {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}


def test_nothing_of_it_is_a_placeholder(host, expected, folder):
    for name in expected.variables["neuron_framework_vendor"]:
        query = f"import importlib.util as util; print(util.find_spec('{MODULES[name]}') is not None)"
        assert host.check_output("%s -I -c %s", f"{folder}/bin/python", query) == "True"


def test_everything_is_from_the_vendor(found):
    assert [name for name, version in found.items() if "neuron" in name and "+" not in version] == []


def test_session_uses_it(host, folder):
    assert host.check_output("bash -lc 'command -v python'") == f"{folder}/bin/python"


def test_everybody_may_use_it_and_nobody_change_it(host, folder):
    assert host.check_output("find %s ! -user root -o -perm -0002 ! -type l", folder) == ""
    assert host.run("su -s /bin/sh nobody -c %s", f"{folder}/bin/python -c 'import sys'").rc == 0


def test_no_index_is_left_configured(host, folder):
    # It would decide what every later installation on the image gets.
    places = f"/etc/pip.conf /root/.pip /root/.config/pip /home/*/.config/pip {folder}/pip.conf"
    assert host.run(f"ls -d {places} 2>/dev/null").stdout == ""
