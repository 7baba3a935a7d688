"""Defects that roles had with real upstream software: each is found if a role has it again."""

import ast
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.filter import core, mathstuff
from jinja2 import Environment

from tests.facts import facts_of, table_of
from tests.facts.comparison import ROOT
from tests.standins import efa
from tests.standins.aws_ofi_nccl import plugin_facts

ROLES = ROOT / "ansible" / "roles"
FOLDER = "/opt/amazon/ofi-nccl/lib"


def tasks_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the tasks of a file, also those in blocks."""
    waiting = list(yaml.safe_load(path.read_text(encoding="utf-8")))
    while waiting:
        task = waiting.pop(0)
        waiting[:0] = [*task.get("block", ()), *task.get("rescue", ())]
        yield task


def task_of(path: Path, name: str) -> Mapping[str, Any]:
    return next(task for task in tasks_of(path) if task["name"] == name)


def evaluated(expression: str, **values: Any) -> Any:
    """Return the value of a Jinja expression with the filters of Ansible."""
    environment = Environment(autoescape=True)
    environment.filters |= core.FilterModule().filters() | mathstuff.FilterModule().filters()
    environment.filters |= {name: listing(environment.filters[name]) for name in ("map", "reject", "select")}
    environment.tests |= {
        "match": lambda text, pattern: re.match(pattern, text) is not None,
        "search": lambda text, pattern: re.search(pattern, text) is not None,
    }
    # Ansible keeps the backslashes of strings.
    return environment.compile_expression(expression.replace("\\", "\\\\"))(**values)


def listing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter with a list as its result, as in Ansible."""

    @wraps(function)
    def wrapped(*words: Any, **named: Any) -> list[Any]:
        return list(function(*words, **named))

    return wrapped


def accepts_every_layout_of_the_plugin(role: Path) -> None:
    """Releases from 1.17 on install the same code under two names."""
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


def unpacks_archives_of_any_name(role: Path) -> None:
    """The folder in the archive of 1.13.2 is aws-ofi-nccl-1.13.2-aws, that of 1.13.0 aws-ofi-nccl-1.13.0."""
    assert plugin_facts("1.13.2")["package"] != plugin_facts("1.13.0")["package"].replace("1.13.0", "1.13.2")
    for task in tasks_of(role / "tasks/build.yml"):
        command = task.get("ansible.builtin.command", {})
        assert "version" not in command.get("chdir", ""), task["name"]


def links_no_folder_of_the_system(role: Path) -> None:
    """Builds pass /usr/local/cuda/include with -isystem."""
    for task in tasks_of(role / "tasks/archive.yml"):
        entries = task.get("tree", {}).get("entries", ())
        links = {entry["dest"]: entry.get("target") for entry in entries if isinstance(entry, dict)}
        assert links.get("/usr/local/cuda/include") is None


@dataclass
class Host:
    """Host on which EFA is installed; it answers with the facts about a release."""

    version: str

    def exists(self, program: str) -> bool:
        return program == "dpkg-query"

    def check_output(self, command: str, *words: str) -> str:
        runs = facts_of("efa", self.version)["runs"]
        code, _, output = runs[command % words].format(**efa.bundle(self.version)).partition(" ")
        assert code == "0"
        return f"{output}\nlibfabric: {efa.bundle(self.version)['libfabric']}\n"


def reads_the_version_that_fi_info_prints(role: Path) -> None:
    """fi_info prints the path by which it was called."""
    version = "1.51.0"
    text = (role / "tests/test_efa.py").read_text(encoding="utf-8")
    module = ast.parse(text)
    wanted = {"is_minimal", "test_libfabric_versions_match"}
    kept = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    names: dict[str, Any] = {
        "package_version": lambda host, name: f"{efa.bundle(host.version)['libfabric']}-1",
    }
    exec(compile(ast.Module(body=kept, type_ignores=[]), str(role), "exec"), names)
    expected = type("Expected", (), {"variables": {"efa_minimal": False}})
    names["test_libfabric_versions_match"](Host(version), expected)


def removes_products_of_the_driver(role: Path) -> None:
    """The build of efa-nv-peermem compiles the driver in /usr/src."""
    tasks = list(tasks_of(role / "tasks/modules.yml"))
    built = next(i for i, task in enumerate(tasks) if "dkms" in task)
    removed = [
        task
        for task in tasks[built:]
        if {"/usr/src/nvidia-*", "-delete"} <= set(task.get("ansible.builtin.command", {}).get("argv", ()))
    ]
    assert removed


def purges_unfinished_packages(role: Path) -> None:
    """The script of a package that adds its module to DKMS fails when it runs again."""
    name = "Remove the packages of another or an interrupted installation"
    purge = task_of(role / "tasks/install.yml", name)
    family = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))["efa_family"]
    unfinished = purge["vars"]["efa_unfinished"].strip().removeprefix("{{").removesuffix("}}")
    for state, wanted in (("half-configured", ["efa"]), ("installed", [])):
        listed = {"stdout_lines": [f"efa {state}", "libc6 half-configured", "efa-config installed"]}
        found = list(evaluated(unfinished, efa_listed=listed, efa_family=family))
        assert found == wanted
        first = {"efa_policy": "install", "efa_recorded": {"stdout": ""}, "efa_record_line": ""}
        assert evaluated(purge["when"], efa_unfinished=found, efa_version="", **first) == bool(wanted)


def knows_the_driver_of_debian(role: Path) -> None:
    """Debian names the module after its package."""
    task = task_of(role / "tasks/modules.yml", "Look for the NVIDIA driver")
    patterns = task.get("ansible.builtin.find", {}).get("patterns", [])
    (first, *_) = table_of("nvidia_driver")["since"]
    for name in ("nvidia", *(name for name in first["names"] if name.startswith("nvidia-current"))):
        assert [pattern for pattern in patterns if fnmatch(f"{name}.ko.xz", pattern)], name
    assert not [pattern for pattern in patterns if fnmatch("nvidia-wmi-ec-backlight.ko", pattern)]


def sets_a_folder_for_programs_of_the_build(role: Path) -> None:
    """A build may run a program in TMPDIR, and /tmp may be mounted noexec."""
    for path in sorted((role / "tasks").glob("*.yml")):
        for task in tasks_of(path):
            argv = task.get("ansible.builtin.command", {})
            words = argv.get("argv", "") if isinstance(argv, dict) else argv
            if re.search(r"\bmake\b|_make\b|configure'", str(words)) and "nvidia-ctk" not in words:
                assert task.get("environment", {}).get("TMPDIR") == "{{ work_folder }}", task["name"]


def names_real_symbols(role: Path) -> None:
    """gdr_open_safe is a function of the tests of GDRCopy."""
    table = table_of("gdrcopy")
    names = {name for entry in table["since"] for name in entry["names"]}
    text = (role / "tests/test_gdrcopy.py").read_text(encoding="utf-8")
    assert set(re.findall(table["namespace"], text)) <= names


def builds_with_gdrcopy(role: Path) -> None:
    """The configure script does not look for GDRCopy in /opt."""
    options = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))["aws_ofi_nccl_options"]
    assert [option for option in options if option.startswith("--with-gdrcopy=")]


def passes_the_fourth_argument(role: Path) -> None:
    """Newer kernels have pci_resize_resource with the argument exclude_bars; later drivers pass 0."""
    tasks = list(tasks_of(role / "tasks/main.yml"))
    names = [task["name"] for task in tasks]
    replaced = task_of(role / "tasks/main.yml", "Pass the fourth argument to pci_resize_resource")
    assert names.index(replaced["name"]) < names.index("Build the kernel modules")
    edit = replaced["ansible.builtin.replace"]
    (first,), (later,) = (facts_of("nvidia_driver", version)["calls"]["nv-pci.c"] for version in CALLING)
    assert re.sub(edit["regexp"], edit["replace"], first) == later
    assert re.sub(edit["regexp"], edit["replace"], later) == later
    loop = replaced["loop"].removeprefix("{{").removesuffix("}}")
    found = {"nvidia_driver_callers": {"files": ["nv-pci.c"]}}
    for headers in ([], ["pci.h"]):
        new = {"nvidia_driver_new_header": {"files": headers}}
        assert bool(evaluated(loop, **found, **new)) == bool(headers)


# Drivers that call pci_resize_resource with three and with four arguments.
CALLING = ("550.163.01", "580.126.09")
# Maps a defect to its rule, and to the file, the text and the earlier text that the role had with the defect.
DEFECTS: Mapping[str, tuple[Callable[[Path], None], str, str, str]] = {
    "one plugin file": (
        accepts_every_layout_of_the_plugin,
        "aws_ofi_nccl/tasks/main.yml",
        "aws_ofi_nccl_plugins.files | map(attribute='path') | map('dirname') | unique | length == 1",
        "aws_ofi_nccl_plugins.files | length == 1",
    ),
    "folder of the release": (
        unpacks_archives_of_any_name,
        "aws_ofi_nccl/tasks/build.yml",
        'chdir: "{{ work_folder }}/aws-ofi-nccl"',
        'chdir: "{{ work_folder }}/aws-ofi-nccl-{{ aws_ofi_nccl_version }}"',
    ),
    "headers of the system": (
        links_no_folder_of_the_system,
        "cuda/tasks/archive.yml",
        "- {dest: /usr/local/cuda/bin, state: link, target: /usr/bin}",
        "- {dest: /usr/local/cuda/include, state: link, target: /usr/include}",
    ),
    "name of fi_info": (
        reads_the_version_that_fi_info_prints,
        "efa/tests/test_efa.py",
        "output[program]",
        'output["fi_info"]',
    ),
    "products in /usr/src": (
        removes_products_of_the_driver,
        "efa/tasks/modules.yml",
        "-printf, ., -delete]",
        "-printf, .]",
    ),
    "interrupted installation": (
        purges_unfinished_packages,
        "efa/tasks/install.yml",
        "or efa_unfinished | length > 0",
        "",
    ),
    "driver of Debian": (
        knows_the_driver_of_debian,
        "efa/tasks/modules.yml",
        '"nvidia-current*.ko*", ',
        "",
    ),
    "program in /tmp": (
        sets_a_folder_for_programs_of_the_build,
        "gdrcopy/tasks/build.yml",
        'TMPDIR: "{{ work_folder }}"',
        "PATH: /usr/bin",
    ),
    "invented symbol": (
        names_real_symbols,
        "gdrcopy/tests/test_gdrcopy.py",
        '"gdr_pin_buffer", ',
        '"gdr_open_safe", ',
    ),
    "call with three arguments": (
        passes_the_fourth_argument,
        "nvidia_driver/tasks/main.yml",
        "replace: '\\1, 0);'",
        "replace: '\\1);'",
    ),
    "plugin without GDRCopy": (
        builds_with_gdrcopy,
        "aws_ofi_nccl/vars/main.yml",
        "--with-gdrcopy=",
        "--without-gdrcopy=",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_role_does_not_have_the_defect(name: str) -> None:
    rule, file, _, _ = DEFECTS[name]
    rule(ROLES / file.partition("/")[0])


@pytest.mark.parametrize("name", DEFECTS)
def test_rule_finds_the_defect(name: str, tmp_path: Path) -> None:
    rule, file, text, earlier = DEFECTS[name]
    role = tmp_path / "role"
    shutil.copytree(ROLES / file.partition("/")[0], role)
    path = role / file.partition("/")[2]
    content = path.read_text(encoding="utf-8")
    assert text in content
    path.write_text(content.replace(text, earlier), encoding="utf-8")
    with pytest.raises((AssertionError, KeyError)):
        rule(role)


@pytest.mark.parametrize("role", ["aws_ofi_nccl", "gdrcopy", "nccl_tests", "pyxis"])
def test_builds_run_programs_outside_tmp(role: str) -> None:
    sets_a_folder_for_programs_of_the_build(ROLES / role)
