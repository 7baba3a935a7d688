"""Rules for the role aws_ofi_nccl, from facts about real plugin releases; they raise AssertionError."""

import re
from pathlib import Path
from types import SimpleNamespace

import yaml

from tests.facts import table_of
from tests.facts.comparison import ROOT
from tests.standins.aws_ofi_nccl import plugin_facts
from tests.support.role_files import evaluated, fails, functions_of, task_of, tasks_of

FOLDER = "/opt/amazon/ofi-nccl/lib"


def accepts_every_layout_of_the_plugin(role: Path) -> None:
    """Accept all plugin files of a release: releases from 1.17 on install the same code under two names."""
    refused = task_of(role / "tasks/main.yml", "Refuse missing, duplicate or wrong versions of the plugin")
    another = "/opt/amazon/aws-ofi-nccl/lib/libnccl-net.so"
    for version in ("1.13.2", "1.16.3", "1.17.3", "1.21.1"):
        paths = [f"{FOLDER}/{name}" for name in plugin_facts(version)["files"] if "tuner" not in name]
        for more, accepted in (([], True), ([another], False)):
            found = {"files": [{"path": path} for path in (*paths, *more)]}
            results = [
                evaluated(text, aws_ofi_nccl_plugins=found, aws_ofi_nccl_pinned=found)
                for text in refused["ansible.builtin.assert"]["that"]
            ]
            assert all(results) == accepted, version


def checks_every_layout_of_the_plugin(role: Path) -> None:
    """Role checks accept several plugin files in one folder, and fail for plugins in two folders."""
    for version in ("1.13.2", "1.16.3", "1.21.1"):
        facts = plugin_facts(version)
        names = {name: facts["links"].get(name, name) for name in (*facts["files"], *facts["links"])}
        plugins = {f"{FOLDER}/{name}": f"{FOLDER}/{real}" for name, real in names.items() if "net" in name}
        nccl = SimpleNamespace(plugins=lambda _, plugins=plugins: plugins)
        wanted = {"folder", "test_loader_finds_plugins_in_one_folder"}
        checks = functions_of(role / "tests/test_aws_ofi_nccl.py", wanted, {"nccl": nccl})
        assert checks["folder"](None) == FOLDER
        assert not fails(checks["test_loader_finds_plugins_in_one_folder"], None)
        plugins["/opt/other/libnccl-net.so"] = "/opt/other/libnccl-net.so"
        assert fails(checks["test_loader_finds_plugins_in_one_folder"], None)


def unpacks_archives_of_any_name(role: Path) -> None:
    """The top folder in an archive may have the suffix -aws (1.13.2) or not (1.13.0)."""
    assert plugin_facts("1.13.2")["package"] != plugin_facts("1.13.0")["package"].replace("1.13.0", "1.13.2")
    for task in tasks_of(role / "tasks/build.yml"):
        command = task.get("ansible.builtin.command", {})
        assert "version" not in command.get("chdir", ""), task["name"]
    unpacked = task_of(role / "tasks/build.yml", "Unpack the sources")["ansible.builtin.unarchive"]
    assert "--strip-components=1" in unpacked["extra_opts"]


def keeps_the_plugin_until_the_build_is_done(role: Path) -> None:
    """A failed build from source must keep the plugin that the EFA installer installed."""
    names = [task["name"] for task in tasks_of(role / "tasks/source.yml")]
    assert names.index("Build the plugin") < names.index("Remove the installer's plugin")


def removes_the_files_of_libtool(role: Path) -> None:
    """The role deletes the .la files of `make install`, which upstream packages do not contain."""
    commands = [task.get("ansible.builtin.command", {}) for task in tasks_of(role / "tasks/install.yml")]
    words = [set(command.get("argv", ())) for command in commands if isinstance(command, dict)]
    assert [found for found in words if {"find", "*.la", "-delete"} <= found]


def passes_real_options(role: Path) -> None:
    """The role passes only known options to configure, which ignores unknown options with a warning."""
    options = table_of("aws_ofi_nccl")["options"]
    text = (role / "vars/main.yml").read_text(encoding="utf-8")
    text += (ROOT / "tests/standins/files/ofi_configure.sh").read_text(encoding="utf-8")
    names = {
        option.replace("disable-", "enable-")
        for option in re.findall(r"--((?:with|without|enable|disable)-[\w-]+)", text)
    }
    assert names <= set(options)


def installs_the_libraries_that_the_plugin_needs(role: Path) -> None:
    """The plugin's package declares no dependencies, so the role installs all except EFA's libfabric."""
    installed = yaml.safe_load((role / "vars/debian.yml").read_text(encoding="utf-8"))["aws_ofi_nccl_needs"]
    needed = [re.sub(r"[.]so[.]", "", name) for name in plugin_facts("1.21.1")["needed"]]
    assert set(needed) - {"libfabric1"} <= set(installed)


def builds_with_gdrcopy(role: Path) -> None:
    """The role passes --with-gdrcopy, because configure does not look for GDRCopy in /opt."""
    options = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))["aws_ofi_nccl_options"]
    assert [option for option in options if option.startswith("--with-gdrcopy=")]
