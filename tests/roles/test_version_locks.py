"""Tests of dnf tasks: version locks equal the pins; dependencies of package files must be signed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.ansible.playbook import MOUNT
from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay, repositories
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

LOCK = "libfabric : Lock packages at their version"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pins = {"libfabric": "1.17.0-3", "rdma_core": "44.0-2", "kernel": "6.12.80-105.155.amzn2023.x86_64"}
    with serve(tmp_path_factory.mktemp("s"), pins) as served:
        yield served


@pytest.fixture(scope="module")
def plan(site: Site) -> Plan:
    request = RoleRequest(components=["libfabric"], system="amazon-2023", pins=site.pins)
    return overlay.plan_of(request, site)


@pytest.fixture(scope="module")
def machine(plan: Plan, site: Site) -> Iterator[Machine]:
    with open_machine(plan, site=site, label="locks") as opened:
        yield opened


def test_missing_or_different_version_lock_is_reported_as_a_change(machine: Machine, plan: Plan) -> None:
    first = machine.apply(plan)
    assert first.passed, first.failure
    assert LOCK in first.changed
    assert machine.apply(plan).changed == []
    locks = sorted(machine.shell("dnf --quiet versionlock list").splitlines())
    assert "libfabric-0:1.17.0-3.*" in locks
    machine.shell("sed -i /libfabric/d /etc/dnf/plugins/versionlock.list")
    assert machine.apply(plan).changed == [LOCK]
    machine.shell("sed -i 's/libfabric-0:1.17.0-3/libfabric-0:1.16.0-1/' /etc/dnf/plugins/versionlock.list")
    assert machine.apply(plan).changed == [LOCK]
    assert sorted(machine.shell("dnf --quiet versionlock list").splitlines()) == locks


URL = "https://vendor.example/yum/"
KEY = "https://vendor.example/yum/key.asc"
FIND = "find /usr/bin -name agent -o -name helper"


def unsigned_rpm(folder: Path, name: str) -> Path:
    empty: dict[str, str] = {}
    return repositories.make_rpm(
        folder,
        name=name,
        version="1.0-1",
        arch="x86_64",
        files={f"/usr/bin/{name}": (0o755, b"")},
        links=empty,
        scripts=empty,
        requires=(),
        provides=(),
    )


def test_dependencies_of_a_package_file_must_be_signed(
    machine: Machine, plan: Plan, site: Site, tmp_path: Path
) -> None:
    base, key = (site.mirrors["https://"] + url.partition("://")[2] for url in (URL, KEY))
    source = f"[vendor]\nname=vendor\nbaseurl={base}\nmetadata_expire=0\ngpgcheck=1\ngpgkey={key}\n"
    file = "/srv/agent.rpm"
    agent = site.rpm("agent", "1.0-1", {"/usr/bin/agent": "#!/bin/sh\n"}, depends=["helper"])
    machine.put({"/etc/yum.repos.d/vendor.repo": source, file: agent.read_bytes()})
    include = {
        "ansible.builtin.include_tasks": f"{MOUNT}/ansible/tasks/install_files_redhat.yml",
        "vars": {"install_files": [file], "install_packages": ["agent"]},
    }
    install = {"block": [include], "module_defaults": {"ansible.builtin.dnf": {"use_backend": "dnf4"}}}
    site.rpm_repository(URL, [unsigned_rpm(tmp_path, "helper")], KEY)
    refused = machine.apply(plan, tasks=[install])
    assert refused.failure
    assert "GPG check FAILED" in str(refused.failure)
    assert machine.shell(f"{FIND} | wc --lines") == "0"
    site.rpm_repository(URL, [site.rpm("helper", "1.0-1", {"/usr/bin/helper": ""})], KEY)
    installed = machine.apply(plan, tasks=[install])
    assert installed.passed, installed.failure
    assert machine.shell(f"{FIND} | wc --lines") == "2"
    assert machine.apply(plan, tasks=[install]).changed == []


def test_package_lists_must_be_signed_if_the_vendor_signs_lists(
    machine: Machine, plan: Plan, site: Site
) -> None:
    site.rpm_repository(URL, [site.rpm("tool", "1.0-1", {"/usr/bin/tool": ""})], KEY)
    key = {"url": KEY, "sha256": overlay.sha256_of(site.url_file(KEY))}
    variables = {"url": URL, "key": key, "signed_lists": True}
    add = {
        "ansible.builtin.include_tasks": f"{MOUNT}/ansible/tasks/repository_redhat.yml",
        "vars": {"repository_of": variables, "repository_name": "signed"},
    }
    lists = site.url_file(URL) / "repodata/repomd.xml"
    forget = "rm --recursive --force /etc/yum.repos.d/factory-signed.repo /var/cache/dnf/factory-signed*"
    found = {}
    for name, content in {"signed": lists.read_bytes(), "changed": lists.read_bytes() + b"\n"}.items():
        lists.write_bytes(content)
        found[name] = machine.apply(plan, tasks=[add])
        machine.shell(forget)
    assert found["signed"].passed, found["signed"].failure
    refused = found["changed"].failure
    assert refused
    assert refused.expected == f"a repository signed by {KEY}"
