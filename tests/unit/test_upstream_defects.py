"""Former defects of roles with real upstream software: a rule finds each defect if a role has it again."""

import base64
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.facts import facts_of, table_of
from tests.facts.comparison import ROOT
from tests.standins import efa
from tests.support.plugin_rules import (
    accepts_every_layout_of_the_plugin,
    builds_with_gdrcopy,
    checks_every_layout_of_the_plugin,
    installs_the_libraries_that_the_plugin_needs,
    keeps_the_plugin_until_the_build_is_done,
    passes_real_options,
    removes_the_files_of_libtool,
    unpacks_archives_of_any_name,
)
from tests.support.role_files import evaluated, fails, functions_of, task_of, tasks_of

ROLES = ROOT / "ansible" / "roles"


def declares_functions_as_glibc_does(role: Path) -> None:
    """Refuse other declarations of cospi and sinpi than those of glibc 2.41, which throw no exception."""
    (entry,) = task_of(role / "tasks/archive.yml", "Write the header with the promises of glibc")["tree"][
        "entries"
    ]
    pattern = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))["cuda_math_pattern"]
    prefix = "extern __DEVICE_FUNCTIONS_DECL__ __device_builtin__"
    earlier = [
        f"{prefix} double cospi(double x);",
        f"{prefix} float sinpif(float x);",
        f"{prefix} double rsqrt(double x);",
    ]
    header = {"content": base64.b64encode("\n".join(earlier).encode()).decode()}
    content = expression_in(entry["content"])
    later = evaluated(content, cuda_math_header=header, cuda_math_pattern=pattern).splitlines()
    assert later == [
        f"{prefix} double cospi(double x) __THROW;",
        f"{prefix} float sinpif(float x) __THROW;",
        earlier[2],
    ]


def declares_only_functions_that_glibc_declares(role: Path) -> None:
    """Refuse another header than the toolkit's with a glibc that does not declare cospi and sinpi."""
    variables = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))
    links = task_of(role / "tasks/archive.yml", "Link the headers to /usr/local/cuda")
    listed = ["/usr/include/crt", "/usr/include/crt/math_functions.h", "/usr/include/crt/sm.h", "/usr/lib/x"]
    for line, is_linked in (
        ("__MATHCALL (cospi,, (_Mdouble_ __x));", False),
        ("__MATHCALL (cos,, (x));", True),
    ):
        header = {"content": base64.b64encode(line.encode()).decode()}
        in_glibc = evaluated(expression_in(variables["cuda_math_in_glibc"]), cuda_glibc_math=header)
        assert in_glibc is not is_linked
        linked = evaluated(
            expression_in(links["vars"]["cuda_headers"]),
            cuda_listed={"stdout_lines": listed},
            cuda_math=variables["cuda_math"],
            cuda_math_in_glibc=in_glibc,
        )
        assert sorted(linked) == listed[1 if is_linked else 2 : 3]
    write = task_of(role / "tasks/archive.yml", "Declare the mathematical functions as glibc does")
    assert write["when"] == "cuda_math_in_glibc"


def expression_in(text: str) -> str:
    return text.strip().removeprefix("{{").removesuffix("}}")


def copies_a_source_tree_once(role: Path) -> None:
    """Refuse a second copy of a source tree whose commit is recorded; the record is the last task."""
    (included,) = [task for task in tasks_of(role / "tasks/main.yml") if "install.yml" in str(task)]
    assert included["when"] == "upstream_source_recorded.rc != 0"
    *_, last = tasks_of(role / "tasks/install.yml")
    assert [entry["dest"] for entry in last["tree"]["entries"]] == ["{{ upstream_source_record }}"]


def links_no_folder_of_the_system(role: Path) -> None:
    """Refuse a link /usr/local/cuda/include to a system folder: builds pass this path with -isystem."""
    for task in tasks_of(role / "tasks/archive.yml"):
        entries = task.get("tree", {}).get("entries", ())
        links = {entry["dest"]: entry.get("target") for entry in entries if isinstance(entry, dict)}
        assert links.get("/usr/local/cuda/include") is None


@dataclass
class Host:
    """Fake host with EFA, whose answers are the facts about a real EFA release."""

    version: str

    def exists(self, program: str) -> bool:
        return program == "dpkg-query"

    def check_output(self, command: str, *words: str) -> str:
        runs = facts_of("efa", self.version)["runs"]
        code, _, output = runs[command % words].format(**efa.bundle(self.version)).partition(" ")
        assert code == "0"
        return f"{output}\nlibfabric: {efa.bundle(self.version)['libfabric']}\n"


def reads_the_version_that_fi_info_prints(role: Path) -> None:
    """The check must parse the output of fi_info, which begins with the path by which fi_info was called."""
    version = "1.51.0"
    wanted = {"is_minimal", "test_versions_of_fi_info_libfabric_and_package_match"}
    package_version = {"package_version": lambda host, name: f"{efa.bundle(host.version)['libfabric']}-1"}
    names = functions_of(role / "tests/test_efa.py", wanted, package_version)
    expected = type("Expected", (), {"variables": {"efa_minimal": False}})
    names["test_versions_of_fi_info_libfabric_and_package_match"](Host(version), expected)


def removes_products_of_the_driver(role: Path) -> None:
    """The role must delete files that a build of efa-nv-peermem leaves in the driver sources."""
    tasks = list(tasks_of(role / "tasks/modules.yml"))
    built = next(i for i, task in enumerate(tasks) if "dkms" in task)
    removed = [
        task
        for task in tasks[built:]
        if {"/usr/src/nvidia-*", "-delete"} <= set(task.get("ansible.builtin.command", {}).get("argv", ()))
    ]
    assert removed


def finds_products_of_the_driver(role: Path) -> None:
    """The check finds object files, modules and symbol files in the driver sources, and no other files."""
    check = "test_driver_sources_have_no_build_products"
    checks = functions_of(role / "tests/test_efa.py", {check}, {})
    for name, is_product in {"nv.o": True, "nvidia.ko": True, "Module.symvers": True, "nv.c": False}.items():
        with tempfile.TemporaryDirectory() as folder:
            product = Path(folder, "nvidia-current-open-535.261.03", name)
            product.parent.mkdir()
            product.touch()
            assert fails(checks[check], HostWithSources(folder)) == is_product, name


@dataclass
class HostWithSources:
    """Fake host with a temporary folder in place of /usr/src."""

    folder: str

    def check_output(self, command: str) -> str:
        argv = ["sh", "-c", command.replace("/usr/src", self.folder)]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def purges_unfinished_packages(role: Path) -> None:
    """The role must purge half-installed DKMS packages, whose install scripts fail when they run again."""
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
    """The role must find Debian's NVIDIA driver, a kernel module with the name of its package."""
    task = task_of(role / "tasks/modules.yml", "Look for the NVIDIA driver")
    patterns = task.get("ansible.builtin.find", {}).get("patterns", [])
    (first, *_) = table_of("nvidia_driver")["since"]
    for name in ("nvidia", *(name for name in first["names"] if name.startswith("nvidia-current"))):
        assert [pattern for pattern in patterns if fnmatch(f"{name}.ko.xz", pattern)], name
    assert not [pattern for pattern in patterns if fnmatch("nvidia-wmi-ec-backlight.ko", pattern)]


def sets_a_folder_for_programs_of_the_build(role: Path) -> None:
    """The role must set TMPDIR for builds: a build may run programs there, and /tmp may be mounted noexec."""
    for path in sorted((role / "tasks").glob("*.yml")):
        for task in tasks_of(path):
            argv = task.get("ansible.builtin.command", {})
            words = argv.get("argv", "") if isinstance(argv, dict) else argv
            if re.search(r"\bmake\b|_make\b|configure'", str(words)) and "nvidia-ctk" not in words:
                assert task.get("environment", {}).get("TMPDIR") == "{{ work_folder }}", task["name"]


def names_real_symbols(role: Path) -> None:
    """Checks must name functions of the GDRCopy library (gdr_open_safe is defined in its tests)."""
    table = table_of("gdrcopy")
    names = {name for entry in table["since"] for name in entry["names"]}
    text = (role / "tests/test_gdrcopy.py").read_text(encoding="utf-8")
    assert set(re.findall(table["namespace"], text)) <= names


def passes_the_fourth_argument(role: Path) -> None:
    """In older drivers, the role adds the argument that newer kernels require for pci_resize_resource."""
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


# Driver versions that call pci_resize_resource with three and with four arguments, in this order.
CALLING = ("550.163.01", "580.126.09")
# Defect → rule, file of the role, present text, and earlier text with the defect.
DEFECTS: Mapping[str, tuple[Callable[[Path], None], str, str, str]] = {
    "one plugin file": (
        accepts_every_layout_of_the_plugin,
        "aws_ofi_nccl/tasks/main.yml",
        "aws_ofi_nccl_plugins.files | map(attribute='path') | map('dirname') | unique | length == 1",
        "aws_ofi_nccl_plugins.files | length == 1",
    ),
    "one plugin file in a check": (
        checks_every_layout_of_the_plugin,
        "aws_ofi_nccl/tests/test_aws_ofi_nccl.py",
        'len({path.rpartition("/")[0] for path in nccl.plugins(host).values()}) == 1',
        "len(nccl.plugins(host)) == 1",
    ),
    "first folder of the archive": (
        unpacks_archives_of_any_name,
        "aws_ofi_nccl/tasks/build.yml",
        "extra_opts: [--strip-components=1]",
        "extra_opts: []",
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
    "copy at each run": (
        copies_a_source_tree_once,
        "upstream_source/tasks/main.yml",
        "  when: upstream_source_recorded.rc != 0",
        "  when: true",
    ),
    "promise of exceptions": (
        declares_functions_as_glibc_does,
        "cuda/tasks/archive.yml",
        "__THROW",
        "",
    ),
    "promise for rsqrt": (
        declares_functions_as_glibc_does,
        "cuda/vars/main.yml",
        "(?:cospi|sinpi)",
        "(?:cospi|sinpi|rsqrt)",
    ),
    "promise of an older glibc": (
        declares_only_functions_that_glibc_declares,
        "cuda/tasks/archive.yml",
        "  when: cuda_math_in_glibc",
        "  when: true",
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
    "check of products": (
        finds_products_of_the_driver,
        "efa/tests/test_efa.py",
        "-name '*.o'",
        "-name '*.a'",
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
    "plugin removed before its build": (
        keeps_the_plugin_until_the_build_is_done,
        "aws_ofi_nccl/tasks/source.yml",
        "- name: Read the record of an earlier build",
        "- name: Remove the installer's plugin",
    ),
    "files of libtool": (
        removes_the_files_of_libtool,
        "aws_ofi_nccl/tasks/install.yml",
        '"*.la", -delete]',
        '"*.la"]',
    ),
    "unknown option": (
        passes_real_options,
        "aws_ofi_nccl/vars/main.yml",
        "--disable-tests",
        "--without-tests",
    ),
    "missing dependency": (
        installs_the_libraries_that_the_plugin_needs,
        "aws_ofi_nccl/vars/debian.yml",
        "aws_ofi_nccl_needs: [libhwloc15]",
        "aws_ofi_nccl_needs: []",
    ),
    "plugin without GDRCopy": (
        builds_with_gdrcopy,
        "aws_ofi_nccl/vars/main.yml",
        "--with-gdrcopy=",
        "--without-gdrcopy=",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_role_does_not_have_the_upstream_defect(name: str) -> None:
    rule, file, _, _ = DEFECTS[name]
    rule(ROLES / file.partition("/")[0])


@pytest.mark.parametrize("name", DEFECTS)
def test_rule_finds_the_upstream_defect_in_the_earlier_text(name: str, tmp_path: Path) -> None:
    rule, file, text, earlier = DEFECTS[name]
    role = tmp_path / "role"
    shutil.copytree(ROLES / file.partition("/")[0], role)
    path = role / file.partition("/")[2]
    content = path.read_text(encoding="utf-8")
    assert text in content
    path.write_text(content.replace(text, earlier), encoding="utf-8")
    with pytest.raises((AssertionError, KeyError, ValueError)):
        rule(role)


@pytest.mark.parametrize("role", ["aws_ofi_nccl", "gdrcopy", "nccl_tests", "pyxis"])
def test_source_builds_of_roles_run_programs_outside_tmp(role: str) -> None:
    sets_a_folder_for_programs_of_the_build(ROLES / role)
