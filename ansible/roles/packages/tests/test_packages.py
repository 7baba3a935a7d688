"""Tools that people and launchers expect, and no upgrade of what the base brought along."""

from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[2]

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


MACHINE_TOOLS = ("ethtool", "mdadm", "mkfs.xfs")


def find_mappings(value):
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from find_mappings(part)


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_is_found(host, tool):
    assert host.exists(tool)


@pytest.mark.needs("has_systemd")
@pytest.mark.parametrize("tool", MACHINE_TOOLS)
def test_tool_of_a_machine_is_found(host, tool):
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


def test_release_of_the_archive_is_fixed(host, expected):
    # Amazon Linux offers the packages of one release; "latest" would make every build another image.
    if expected.capabilities["system_distribution"] == "amazon":
        chosen = host.file("/etc/dnf/vars/releasever")
        assert not chosen.exists or chosen.content_string.strip() != "latest"


def test_no_role_upgrades_what_it_does_not_name():
    # Modules of the base (Lustre, EFA, NVIDIA) belong to the kernel that it came with.
    guilty = []
    for path in sorted([*ROLES.glob("*/tasks/*.yml"), *ROLES.parent.glob("tasks/*.yml")]):
        for step in find_mappings(yaml.safe_load(path.read_text(encoding="utf-8"))):
            everything = {"upgrade", "update_only"} & set(step) or step.get("state") == "latest"
            guilty += [f"{path}: {step}"] if everything or step.get("name") == "*" else []
    assert guilty == []


def test_no_step_only_pretends():
    # A step in check mode does nothing: it may ask, where something goes by the answer.
    steps = [
        step
        for path in ROLES.glob("*/tasks/*.yml")
        for step in find_mappings(yaml.safe_load(path.read_text(encoding="utf-8")))
    ]
    assert [step for step in steps if step.get("check_mode") is True and "register" not in step] == []
