"""The plugin of NCCL: in one folder, of the pinned version, found by the loader with all its libraries."""

import pytest
from checks import nccl


@pytest.fixture(scope="module")
def folder(host):
    (folder,) = {path.rpartition("/")[0] for path in nccl.plugins(host).values()}
    return folder


@pytest.fixture(scope="module")
def plugins(host, folder):
    # From 1.17 on two files of the same code, before that one and a link to it.
    return host.check_output("find %s -name 'libnccl-net*.so' -type f", folder).split()


def test_loader_finds_plugins_in_one_folder(host):
    assert len({path.rpartition("/")[0] for path in nccl.plugins(host).values()}) == 1


def test_no_other_plugin_lies_about(host, plugins):
    # LD_LIBRARY_PATH of a job comes before the loader's own list, and old paths live long in job scripts.
    found = host.run("find /opt /usr/local /usr/lib /usr/lib64 -xdev -name 'libnccl-net*.so*' -type f").stdout
    assert sorted(found.split()) == sorted(plugins)


def test_plugin_is_of_the_pinned_version(host, expected, plugins):
    version = expected.versions["aws_ofi_nccl"].replace(".", "[.]")
    pattern = f"aws-ofi-nccl {version}(?![.0-9])"
    for plugin in plugins:
        assert host.run("grep --text --quiet --perl-regexp %s %s", pattern, plugin).rc == 0, plugin


def test_every_library_of_it_is_found(host, plugins):
    for plugin in plugins:
        assert "not found" not in host.check_output("ldd %s", plugin), plugin


def test_nccl_finds_it_under_a_name_it_tries(host):
    # The loader's list has the name that the library gives itself, and not that of a link to it: without
    # NCCL_NET_PLUGIN, NCCL asks for a name that leads nowhere, and takes TCP without a word.
    interfaces, _ = nccl.load(host, nccl.plugin_names(host)[0])
    assert [name for name in interfaces if name.startswith("ncclNetPlugin_v")]


def test_it_runs_on_libfabric_of_efa(host, plugins):
    for plugin in plugins:
        _, libraries = nccl.load(host, plugin)
        assert [path.startswith("/opt/amazon/efa/lib") for path in libraries] == [True], plugin


def test_it_has_its_tuner(host, folder):
    interfaces, _ = nccl.load(host, f"{folder}/libnccl-ofi-tuner.so")
    assert [name for name in interfaces if name.startswith("ncclTunerPlugin_v")]


def test_loader_looks_only_where_something_is(host):
    for folder in host.check_output("cat /etc/ld.so.conf.d/100_ofinccl.conf").split():
        assert host.file(folder).is_directory
