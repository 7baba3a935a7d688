"""Stand-ins and checks of the NCCL plugin are compared with the facts about its real releases."""

import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from builder import catalog
from builder.downloads import downloads_of
from tests.facts import Fact, facts_of, table_of
from tests.facts.served import Records, facts_served
from tests.standins import aws_ofi_nccl, efa, enroot, nvidia_container_toolkit

ROOT = Path(__file__).resolve().parents[2]
FACTS = tomllib.loads((ROOT / "tests/facts/aws_ofi_nccl.toml").read_text(encoding="utf-8"))
ROLE_CHECKS = (
    ROOT / "ansible/roles/aws_ofi_nccl/tests/test_aws_ofi_nccl.py",
    *ROOT.glob("ansible/**/checks/nccl.py"),
)


@pytest.mark.parametrize(
    ("version", "files", "highest"),
    [
        ("1.13.2", {"libnccl-net.so": "file"}, "ncclNetPlugin_v8"),
        ("1.16.3", {"libnccl-net-ofi.so": "file", "libnccl-net.so": "link"}, "ncclNetPlugin_v10"),
        ("1.21.1", {"libnccl-net-ofi.so": "file", "libnccl-net.so": "file"}, "ncclNetPlugin_v12"),
    ],
)
def test_plugin_files_and_interface_depend_on_the_release(
    version: str, files: dict[str, str], highest: str
) -> None:
    facts = aws_ofi_nccl.plugin_facts(version)
    found = dict.fromkeys(facts["files"], "file") | dict.fromkeys(facts["links"], "link")
    assert {name: kind for name, kind in found.items() if "tuner" not in name} == files
    first = next(name for name in facts["files"] if "tuner" not in name)
    assert [name for name in aws_ofi_nccl.symbols(facts, first) if "Net" in name][-1] == highest


@pytest.mark.parametrize(
    ("version", "tag", "package"),
    [
        ("1.12.1", "v1.12.1-aws", "1.12.1-aws"),
        ("1.13.0", "v1.13.0-aws", "1.13.0"),
        ("1.13.2", "v1.13.2-aws", "1.13.2-aws"),
        ("1.14.0", "v1.14.0", "1.14.0"),
    ],
)
def test_tag_and_archive_name_of_plugin_releases(version: str, tag: str, package: str) -> None:
    facts = aws_ofi_nccl.plugin_facts(version)
    assert (facts["tag"], facts["package"]) == (tag, package)


# Not 1.13.0: its archive, unlike all others, lacks the suffix of the tag; the catalog does not list it.
@pytest.mark.parametrize("version", ["1.12.1", "1.13.1", "1.13.2", "1.14.0", "1.16.3", "1.21.1"])
def test_catalog_has_the_download_url_of_the_plugin_release(version: str) -> None:
    loaded = catalog.load(ROOT)
    stack = replace(
        loaded.stacks["cuda-12.4"], pins=loaded.stacks["cuda-12.4"].pins | {"aws_ofi_nccl": version}
    )
    (download,) = downloads_of(
        loaded.components["aws_ofi_nccl"],
        stack=stack,
        system=loaded.systems["debian-12"],
        kind="container",
        policy="source",
        arch="x86_64",
    )
    facts = aws_ofi_nccl.plugin_facts(version)
    assert download.url == f"{aws_ofi_nccl.RELEASES}/{facts['tag']}/aws-ofi-nccl-{facts['package']}.tar.gz"


def plugin_of_the_installer(folder: Path, installer: str) -> set[Fact]:
    """Return the facts about the NCCL plugin's package in a stand-in for the EFA installer."""
    has = efa.bundle(installer)
    site = Records(folder=folder / "site", pins={})
    site.folder.mkdir(parents=True)
    _, fabric = efa.make_libfabric(has["libfabric"])
    efa.make_plugin(site, installer, has, fabric)
    found = [fact for fact in facts_served(site, ()) if "libnccl-" in fact.words[0]]
    return {fact for fact in found if fact.kind in ("files", "links", "sonames", "needed", "symbols")}


def plugin_of_the_table(facts: Mapping[str, Any], folder: str) -> set[Fact]:
    found = {Fact("links", (f"{folder}/{name}", target)) for name, target in facts["links"].items()}
    for name in facts["files"]:
        found |= {Fact("files", (f"{folder}/{name}",)), Fact("sonames", (name, name))}
        found |= {Fact("needed", (name, library)) for library in facts["needed"]}
        found |= {Fact("symbols", (name, symbol)) for symbol in aws_ofi_nccl.symbols(facts, name)}
    return found


@pytest.mark.parametrize("installer", ["1.40.0", "1.43.2", "1.47.0", "1.51.0"])
def test_plugin_in_the_efa_stand_in_matches_the_real_release(tmp_path: Path, installer: str) -> None:
    facts = facts_of("aws_ofi_nccl", efa.bundle(installer)["aws_ofi_nccl"])
    folder = "/opt/amazon/ofi-nccl/lib"
    folder += "" if efa.numbers(installer) >= (1, 44) else "/x86_64-linux-gnu"
    served = plugin_of_the_installer(tmp_path, installer)
    assert served == plugin_of_the_table(facts, folder)
    kinds = {kind for kinds in facts["files"].values() for kind in kinds}
    for key in ("files", "links", "needed", *kinds):
        for changed in changes_of(facts[key]):
            assert served != plugin_of_the_table({**facts, key: changed}, folder), (key, changed)


def changes_of(value: Any) -> list[Any]:
    """Return changed copies of a list or table: each lacks one entry, and the last has a new entry."""
    if isinstance(value, dict):
        less = [{key: value[key] for key in value if key != name} for name in value]
        return [*less, {**value, "libnccl-net-changed.so": type(next(iter(value.values()), ""))()}]
    return [*([other for other in value if other != one] for one in value), [*value, 99]]


@pytest.mark.parametrize("installer", ["1.43.2", "1.51.0"])
def test_libfabric_of_the_installer_matches_the_facts(tmp_path: Path, installer: str) -> None:
    facts = facts_of("libfabric", efa.bundle(installer)["libfabric"])
    site = Records(folder=tmp_path / "site", pins={})
    site.folder.mkdir()
    efa.make_userland(site, installer)
    folder = "/opt/amazon/efa/lib"
    assert Fact("links", (f"{folder}/{facts['soname']}", facts["file"])) in site.facts
    library = tmp_path / "library"
    library.write_bytes(site.contents[f"{folder}/{facts['file']}"])
    described = output_of("readelf", "--wide", "--dynamic", "--version-info", library)
    assert f"Library soname: [{facts['soname']}]" in described
    assert re.search(rf"Name: {re.escape(facts['node'])}\b", described)


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", ROLE_CHECKS, ids=lambda path: path.name)
def test_checks_name_only_plugin_libraries_and_interfaces_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = {name for entry in FACTS["since"] for key in ("files", "links") for name in entry.get(key, ())}
    kinds = {kind for entry in FACTS["since"] for kinds in entry.get("files", {}).values() for kind in kinds}
    assert set(re.findall(r"\blibnccl-[\w-]+\.so\b", text)) <= names
    assert {word.lower() for word in re.findall(r"\bnccl(\w+)Plugin_v", text)} <= kinds


@pytest.mark.parametrize(
    ("upstream", "text", "pattern"),
    [
        ("enroot", enroot.PROGRAM, r"^done < (\S+)$"),
        ("nvidia_container_toolkit", nvidia_container_toolkit.PROGRAM, r'^BinaryName = "(.+)"$'),
    ],
)
def test_programs_of_stand_ins_use_paths_of_real_releases(upstream: str, text: str, pattern: str) -> None:
    (path,) = re.findall(pattern, text, re.MULTILINE)
    assert [entry for entry in table_of(upstream)["since"] if path in entry.get("files", ())]


def test_stand_in_for_fi_info_prints_the_path_by_which_it_was_called(tmp_path: Path) -> None:
    words = {"libfabric": "2.4.0"}
    _, fabric = efa.make_libfabric("2.4.0")
    (tmp_path / "libfabric.so.1").write_bytes(fabric)
    program = tmp_path / "fi_info"
    program.write_bytes(efa.native.program(efa.FI_INFO % words, libraries=[fabric], folder=str(tmp_path)))
    program.chmod(0o755)
    assert output_of(program, "--version").splitlines()[0] == f"{program}: 2.4.0"


@dataclass
class HostWithSetting:
    """Fake host whose /etc/nccl.conf sets NCCL_NET_PLUGIN."""

    content_string: str
    exists: bool = True

    def file(self, path: str) -> "HostWithSetting":
        assert path == "/etc/nccl.conf"
        return self


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("", ["libnccl-net.so"]),
        ("NCCL_NET_PLUGIN=ofi", ["libnccl-net-ofi.so"]),
        ("NCCL_NET_PLUGIN=libnccl-net-ofi.so", ["libnccl-net-ofi.so"]),
        ("NCCL_NET_PLUGIN=/opt/x/any.so,ofi", ["/opt/x/any.so", "libnccl-net-ofi.so"]),
    ],
)
def test_checks_know_the_plugin_file_names_that_nccl_tries(setting: str, names: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("checks_nccl", ROOT / "ansible/checks/nccl.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.plugin_names(HostWithSetting(setting)) == names
