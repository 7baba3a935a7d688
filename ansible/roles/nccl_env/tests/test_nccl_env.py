"""Checks of the environment of jobs: no preload, no variables that override NCCL's or libfabric's choices."""

import re

import pytest
from checks import environment_files, nccl, session_environment

# Variables that worked around bugs of old releases. They override better defaults of current releases, but
# are still copied between images.
REFUSED = re.compile(r"LD_PRELOAD|NCCL_PROTO|NCCL_NET_GDR_LEVEL|FI_PROVIDER|FI_EFA_FORK_SAFE|RDMAV_\w+")
PATH_LISTS = ("CPATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "PATH")
BLOCK = re.compile(r"^# BEGIN ANSIBLE MANAGED BLOCK$", re.MULTILINE)


@pytest.fixture(scope="module")
def environment(host):
    """Return the environment of processes started by the engine or systemd, and of login sessions."""
    return {**host.environment(), **session_environment(host)}


def test_session_sets_no_refused_variable(environment):
    assert [name for name in environment if REFUSED.fullmatch(name)] == []


def test_no_system_file_sets_a_refused_variable(host):
    assignment = re.compile(rf"^[^#\n]*\b({REFUSED.pattern})=", re.MULTILINE)
    found = {path: assignment.findall(text) for path, text in environment_files(host).items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_ld_so_preload_is_empty(host):
    preload = host.file("/etc/ld.so.preload")
    assert not preload.exists or not preload.content_string.strip()


def test_no_search_path_has_an_empty_element(environment):
    # The loader and the compiler interpret an empty element as the current directory.
    paths = {name: environment[name] for name in PATH_LISTS if name in environment}
    assert {name: value for name, value in paths.items() if "" in value.split(":")} == {}


def test_no_environment_file_has_the_default_blockinfile_marker(host):
    # Two blockinfile tasks with the same marker replace each other's block in a file.
    assert [path for path, text in environment_files(host).items() if BLOCK.search(text)] == []


def test_nccl_conf_has_the_settings(host, expected):
    found = nccl.settings(host)
    wanted = expected.variables["nccl_env_settings"]
    assert {name: found.get(name) for name in wanted} == {name: str(value) for name, value in wanted.items()}
    assert set(found) - set(wanted) <= {"NCCL_NET_PLUGIN"}
    assert [name for name in found if REFUSED.fullmatch(name)] == []


def test_nccl_finds_the_configured_plugin(host):
    # If NCCL does not find the configured plugin, it silently falls back to TCP.
    if not nccl.plugins(host):
        assert "NCCL_NET_PLUGIN" not in nccl.settings(host)
        return
    for name in nccl.plugin_names(host):
        interfaces, _ = nccl.load(host, name)
        assert [found for found in interfaces if found.startswith("ncclNetPlugin_v")]
