"""What jobs find set before they start: nothing that takes a choice from NCCL or libfabric, no preload."""

import re

import pytest
from checks import environment_files, nccl, session_environment

# Each was right for some old release, takes a choice away from the present one, and is copied on and on.
REFUSED = re.compile(r"LD_PRELOAD|NCCL_PROTO|NCCL_NET_GDR_LEVEL|FI_PROVIDER|FI_EFA_FORK_SAFE|RDMAV_\w+")
PATH_LISTS = ("CPATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "PATH")
BLOCK = re.compile(r"^# BEGIN ANSIBLE MANAGED BLOCK$", re.MULTILINE)


@pytest.fixture(scope="module")
def environment(host):
    """Of a login session, and of what the engine or systemd starts."""
    return {**host.environment(), **session_environment(host)}


def test_no_session_takes_a_choice_from_nccl(environment):
    assert [name for name in environment if REFUSED.fullmatch(name)] == []


def test_no_file_of_the_system_takes_a_choice_from_nccl(host):
    assignment = re.compile(rf"^[^#\n]*\b({REFUSED.pattern})=", re.MULTILINE)
    found = {path: assignment.findall(text) for path, text in environment_files(host).items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_nothing_is_loaded_into_every_program(host):
    preload = host.file("/etc/ld.so.preload")
    assert not preload.exists or not preload.content_string.strip()


def test_no_path_has_an_empty_element(environment):
    # The loader and the compiler take it for the current folder.
    paths = {name: environment[name] for name in PATH_LISTS if name in environment}
    assert {name: value for name, value in paths.items() if "" in value.split(":")} == {}


def test_no_block_has_the_marker_of_another(host):
    # Several blocks with one marker in one file: the last one replaces the others.
    assert [path for path, text in environment_files(host).items() if BLOCK.search(text)] == []


def test_settings_are_the_wanted_ones(host, expected):
    found = nccl.settings(host)
    wanted = expected.variables["nccl_env_settings"]
    assert {name: found.get(name) for name in wanted} == {name: str(value) for name, value in wanted.items()}
    assert set(found) - set(wanted) <= {"NCCL_NET_PLUGIN"}
    assert [name for name in found if REFUSED.fullmatch(name)] == []


def test_nccl_asks_for_a_plugin_that_is_there(host):
    # Asked for what does not exist, or for nothing where something is, NCCL takes TCP without a word.
    if not nccl.plugins(host):
        assert "NCCL_NET_PLUGIN" not in nccl.settings(host)
        return
    for name in nccl.plugin_names(host):
        interfaces, _ = nccl.load(host, name)
        assert [found for found in interfaces if found.startswith("ncclNetPlugin_v")]
