"""Stand-ins and checks are compared with the facts about real releases."""

import io
import re
import subprocess
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from builder import catalog
from builder.downloads import downloads_of
from tests.facts import facts_of
from tests.standins import aws_ofi_nccl, efa
from tests.standins.site import Site

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
def test_facts_follow_the_release(version: str, files: dict[str, str], highest: str) -> None:
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
def test_names_of_releases(version: str, tag: str, package: str) -> None:
    facts = aws_ofi_nccl.plugin_facts(version)
    assert (facts["tag"], facts["package"]) == (tag, package)


# The archive of 1.13.0 alone has no suffix, unlike its tag; the catalog has no entry for it.
@pytest.mark.parametrize("version", ["1.12.1", "1.13.1", "1.13.2", "1.14.0", "1.16.3", "1.21.1"])
def test_catalog_has_the_url_of_the_release(version: str) -> None:
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


@pytest.mark.parametrize("installer", ["1.40.0", "1.43.2", "1.47.0", "1.51.0"])
def test_plugin_of_the_installer_matches_the_facts(tmp_path: Path, installer: str) -> None:
    has = efa.bundle(installer)
    facts = facts_of("aws_ofi_nccl", has["aws_ofi_nccl"])
    _, fabric = efa.make_libfabric(has["libfabric"])
    package = efa.make_plugin(Site(folder=tmp_path / "site", pins={}), installer, has, fabric)
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    files, links = {}, {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            if entry.issym():
                links[Path(entry.name).name] = entry.linkname
            elif entry.name.endswith(".so"):
                archive.extract(entry, tmp_path, filter="data")
                files[Path(entry.name).name] = tmp_path / entry.name
    assert links == facts["links"]
    assert set(files) == set(facts["files"])
    for name, path in files.items():
        dynamic = output_of("readelf", "-d", path)
        assert f"Library soname: [{name}]" in dynamic
        assert [f"Shared library: [{needed}]" in dynamic for needed in facts["needed"]] == [True, True]
        exported = set(re.findall(r"nccl\w+Plugin_v\d+", output_of("nm", "-D", "--defined-only", path)))
        assert exported == {
            f"nccl{kind.title()}Plugin_v{number}" for kind in facts["files"][name] for number in facts[kind]
        }


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", ROLE_CHECKS, ids=lambda path: path.name)
def test_checks_name_only_libraries_and_interfaces_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = {name for entry in FACTS["since"] for key in ("files", "links") for name in entry.get(key, ())}
    kinds = {kind for entry in FACTS["since"] for kinds in entry.get("files", {}).values() for kind in kinds}
    assert set(re.findall(r"\blibnccl-[\w-]+\.so\b", text)) <= names
    assert {word.lower() for word in re.findall(r"\bnccl(\w+)Plugin_v", text)} <= kinds


def test_fi_info_prints_the_path_by_which_it_was_called(tmp_path: Path) -> None:
    words = {"libfabric": "2.4.0"}
    _, fabric = efa.make_libfabric("2.4.0")
    (tmp_path / "libfabric.so.1").write_bytes(fabric)
    program = tmp_path / "fi_info"
    program.write_bytes(
        efa.native.program(efa.FI_INFO % words, libraries={"libfabric.so.1": fabric}, folder=str(tmp_path))
    )
    program.chmod(0o755)
    assert output_of(program, "--version").splitlines()[0] == f"{program}: 2.4.0"
