"""Checks of the aws-ofi-nccl plugin: the pinned version, in one folder, loadable by NCCL."""

import pytest
from checks import nccl


@pytest.fixture(scope="module")
def folder(host):
    (folder,) = {path.rpartition("/")[0] for path in nccl.plugins(host).values()}
    return folder


@pytest.fixture(scope="module")
def plugins(host, folder):
    # Since aws-ofi-nccl 1.17 the plugin is two identical files; before, it was a file and a link.
    return host.check_output("find %s -name 'libnccl-net*.so' -type f", folder).split()


def test_loader_finds_plugins_in_one_folder(host):
    assert len({path.rpartition("/")[0] for path in nccl.plugins(host).values()}) == 1


def test_no_other_plugin_is_installed(host, plugins):
    # LD_LIBRARY_PATH in old job scripts takes precedence over the loader cache and could select another
    # plugin.
    found = host.run("find /opt /usr/local /usr/lib /usr/lib64 -xdev -name 'libnccl-net*.so*' -type f").stdout
    assert sorted(found.split()) == sorted(plugins)


def test_plugin_has_the_pinned_version(host, expected, plugins):
    version = expected.versions["aws_ofi_nccl"].replace(".", "[.]")
    pattern = f"aws-ofi-nccl {version}(?![.0-9])"
    for plugin in plugins:
        assert host.run("grep --text --quiet --perl-regexp %s %s", pattern, plugin).rc == 0, plugin


def test_plugin_finds_its_libraries(host, plugins):
    for plugin in plugins:
        assert "not found" not in host.check_output("ldd %s", plugin), plugin


def test_nccl_finds_the_plugin_by_name(host):
    # The loader cache has SONAMEs but no names of links: without NCCL_NET_PLUGIN, NCCL may not find the
    # plugin and silently falls back to TCP.
    interfaces, _ = nccl.load(host, nccl.plugin_names(host)[0])
    assert [name for name in interfaces if name.startswith("ncclNetPlugin_v")]


def test_plugin_uses_the_libfabric_of_efa(host, plugins):
    for plugin in plugins:
        _, libraries = nccl.load(host, plugin)
        assert [path.startswith("/opt/amazon/efa/lib") for path in libraries] == [True], plugin


def test_tuner_plugin_is_installed(host, folder):
    interfaces, _ = nccl.load(host, f"{folder}/libnccl-ofi-tuner.so")
    assert [name for name in interfaces if name.startswith("ncclTunerPlugin_v")]


def test_build_from_source_uses_gdrcopy(host, expected, plugins):
    prefix = expected.variables["aws_ofi_nccl_gdrcopy"]
    if (
        expected.variables["aws_ofi_nccl_policy"] == "source"
        and host.file(f"{prefix}/include/gdrapi.h").exists
    ):
        text = "GDRCopy support not available at compile time"
        for plugin in plugins:
            assert host.run("grep --text --quiet %s %s", text, plugin).rc == 1, plugin


def test_loader_folders_exist(host):
    for folder in host.check_output("cat /etc/ld.so.conf.d/100_ofinccl.conf").split():
        assert host.file(folder).is_directory
