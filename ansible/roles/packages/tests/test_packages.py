"""Tools that people and launchers expect."""

import pytest

TOOLS = (
    "bzip2",
    "curl",
    "file",
    "git",
    "ip",
    "jq",
    "less",
    "lsof",
    "lspci",
    "lstopo-no-graphics",
    "modinfo",
    "numactl",
    "pgrep",
    "pigz",
    "ping",
    "pstree",
    "rsync",
    "ssh",
    "strace",
    "unzip",
    "vi",
    "xz",
    "zstd",
)


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_is_found(host, tool):
    assert host.exists(tool)


def test_further_packages_are_installed(host, expected):
    missing = [name for name in expected.variables["packages_extra"] if not host.package(name).is_installed]
    assert missing == []


def test_package_database_is_sound(host, expected):
    check = {"debian": "dpkg --audit", "redhat": "rpm --verify --nofiles --all"}
    assert host.check_output(check[expected.capabilities["system_family"]]) == ""


def test_certificates_are_installed(host):
    program = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(host.check_output("python3 -c %s", program)) > 50


def test_json_is_read(host):
    assert host.check_output("""echo '{"a": [1, 2]}' | jq -c .a""") == "[1,2]"


def test_topology_is_seen(host):
    assert "PU" in host.check_output("lstopo-no-graphics --of console --no-io")
