"""Checks of the common tools, and that no role upgrades packages of the base image."""

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
def test_machine_tool_is_found(host, tool):
    assert host.exists(tool)


def test_extra_packages_are_installed(host, expected):
    missing = [name for name in expected.variables["packages_extra"] if not host.package(name).is_installed]
    assert missing == []


def test_package_database_is_consistent(host, expected):
    check = {"debian": "dpkg --audit", "redhat": "rpm --verify --nofiles --all"}
    assert host.check_output(check[expected.capabilities["system_family"]]) == ""


def test_certificates_are_installed(host):
    program = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(host.check_output("python3 -c %s", program)) > 50


def test_jq_parses_json(host):
    assert host.check_output("""echo '{"a": [1, 2]}' | jq -c .a""") == "[1,2]"


def test_lstopo_shows_processors(host):
    assert "PU" in host.check_output("lstopo-no-graphics --of console --no-io")


def test_distribution_release_is_fixed(host, expected):
    # With the release "latest", Amazon Linux installs newer packages in every build.
    if expected.capabilities["system_distribution"] == "amazon":
        chosen = host.file("/etc/dnf/vars/releasever")
        assert not chosen.exists or chosen.content_string.strip() != "latest"


def test_roles_upgrade_only_named_packages():
    # Kernel modules of the base image (Lustre, EFA, NVIDIA) work only with its kernel.
    violations = []
    for path in sorted([*ROLES.glob("*/tasks/*.yml"), *ROLES.parent.glob("tasks/*.yml")]):
        for step in find_mappings(yaml.safe_load(path.read_text(encoding="utf-8"))):
            upgrades_all = {"upgrade", "update_only"} & set(step) or step.get("state") == "latest"
            violations += [f"{path}: {step}"] if upgrades_all or step.get("name") == "*" else []
    assert violations == []


def test_tasks_that_always_run_in_check_mode_register_their_result():
    # A task in check mode changes nothing, so it is useful only if its result is registered.
    steps = [
        step
        for path in ROLES.glob("*/tasks/*.yml")
        for step in find_mappings(yaml.safe_load(path.read_text(encoding="utf-8")))
    ]
    assert [step for step in steps if step.get("check_mode") is True and "register" not in step] == []
