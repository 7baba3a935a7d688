"""Tests of the shared task files on a machine: repositories, packages, holds, locks, kernel, initramfs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from builder.adapters.ansible.apply import Applied
from builder.adapters.ansible.playbook import MOUNT
from builder.app.role_plan import RoleRequest
from builder.model import Plan
from builder.wait import until
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

URL = "https://vendor.example/debian/"
KEY = "https://vendor.example/key.asc"
TASKS = f"{MOUNT}/ansible/tasks"
WORK = "/var/cache/factory-probe"
ADD = {"ansible.builtin.include_tasks": f"{TASKS}/repository_debian.yml"}
INSTALL = {"ansible.builtin.include_tasks": f"{TASKS}/install_debian.yml"}
END = {"work_folder": {"path": WORK, "state": "absent"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s"), {}) as served:
        yield served


@pytest.fixture(scope="module")
def plan(site: Site) -> Plan:
    return overlay.plan_of(RoleRequest(components=["base"]), site)


@pytest.fixture(scope="module")
def machine(plan: Plan, site: Site) -> Iterator[Machine]:
    with open_machine(plan, site=site, label="shared") as opened:
        yield opened


@pytest.fixture(autouse=True)
def clean(machine: Machine, plan: Plan) -> Iterator[None]:
    yield
    machine.apply(plan, tasks=[END])
    installed = machine.shell(
        "dpkg-query --show --showformat '${Package} ' 'tool*' 2>/dev/null || test $? = 1"
    )
    if installed:
        machine.shell(f"apt-mark unhold {installed}; dpkg --purge {installed}")


def publish(site: Site, *versions: str, url: str = URL, suite: str = "./") -> None:
    debs = []
    for version in versions:
        debs.append(site.deb("tool-data", version, {"/usr/share/tool/version": version}))
        debs.append(site.deb("tool", version, {"/usr/bin/tool": "#!/bin/sh\n"}, depends=["tool-data"]))
    site.apt_repository(url, debs, KEY, suite=suite, components=[] if suite == "./" else ["stable"])


def repository(site: Site, *, url: str = URL, suite: str = "./") -> dict[str, Any]:
    key = overlay.sha256_of(site.url_file(KEY))
    components = [] if suite == "./" else ["stable"]
    of = {"url": url, "suite": suite, "components": components, "key": {"url": KEY, "sha256": key}}
    return {**ADD, "vars": {"repository_of": of, "repository_name": "vendor"}}


def install(version: str, *, hold: bool = True) -> dict[str, Any]:
    variables = {"install_packages": ["tool", "tool-data"], "install_version": version, "install_hold": hold}
    return {**INSTALL, "vars": variables}


def succeed(play: Applied) -> Applied:
    assert play.passed, play.failure
    return play


def versions(machine: Machine) -> str:
    return machine.shell("dpkg-query --show --showformat '${Package}=${Version} ' 'tool*'").strip()


@pytest.mark.parametrize("suite", ["./", "bookworm"])
def test_installs_and_holds_one_version_from_a_repository(
    machine: Machine, plan: Plan, site: Site, suite: str
) -> None:
    url = f"https://vendor.example/{suite.strip('./') or 'flat'}/"
    publish(site, "1.0-1", "2.0-1", url=url, suite=suite)
    tasks = [repository(site, url=url, suite=suite), install("1.0-1")]
    assert succeed(machine.apply(plan, tasks=tasks)).failure is None
    assert versions(machine) == "tool=1.0-1 tool-data=1.0-1"
    assert machine.shell("apt-mark showhold").split() == ["tool", "tool-data"]
    assert machine.shell("apt-get --simulate dist-upgrade | grep -c '^Inst tool' || test $? = 1") == "0"


def test_second_run_changes_nothing(machine: Machine, plan: Plan, site: Site) -> None:
    publish(site, "1.0-1")
    tasks = [repository(site), install("1.0-1"), END]
    assert machine.apply(plan, tasks=tasks).changed != []
    assert machine.apply(plan, tasks=tasks).changed == []


@pytest.mark.parametrize(("first", "second"), [("1.0-1", "2.0-1"), ("2.0-1", "1.0-1")])
def test_replaces_a_held_package_version(
    machine: Machine, plan: Plan, site: Site, first: str, second: str
) -> None:
    publish(site, "1.0-1", "2.0-1")
    succeed(machine.apply(plan, tasks=[repository(site), install(first)]))
    succeed(machine.apply(plan, tasks=[repository(site), install(second)]))
    assert versions(machine) == f"tool={second} tool-data={second}"
    assert machine.shell("apt-mark showhold").split() == ["tool", "tool-data"]


def test_names_the_available_versions_if_none_matches(machine: Machine, plan: Plan, site: Site) -> None:
    publish(site, "1.0-1", "2.0-1")
    play = machine.apply(plan, tasks=[repository(site), install("3.*")])
    assert play.failure is not None
    assert "no package tool=3.* is available; versions: 2.0-1, 1.0-1" in play.failure.message
    succeed(machine.apply(plan, tasks=[repository(site), install("1.*")]))
    assert versions(machine) == "tool=1.0-1 tool-data=1.0-1"


POLICY = "/usr/sbin/policy-rc.d"


@pytest.mark.parametrize("before", ["", "#!/bin/sh\nexit 0\n", "killed"])
def test_package_scripts_start_no_services(machine: Machine, plan: Plan, site: Site, before: str) -> None:
    """The shared tasks restore an existing policy-rc.d, except a file that a killed run left."""
    postinst = f"#!/bin/sh\nset +e; {POLICY} tool start; echo $? > /var/tmp/answer\n"
    deb = site.deb("tool", "5.0-1", {"/usr/bin/tool": "#!/bin/sh\n"}, scripts={"postinst": postinst})
    site.apt_repository(URL, [deb], KEY, suite="./")
    keep = {"apt_packages": {"names": ["tool"]}}
    if before == "killed":
        comment = "# Keeps package scripts from starting services during the build.\n"
        machine.put({POLICY: f"#!/bin/sh\n{comment}exit 101\n"})
    elif before:
        machine.put({POLICY: before})
    succeed(machine.apply(plan, tasks=[repository(site), keep, END]))
    assert machine.shell("cat /var/tmp/answer") == "101"
    left = machine.shell(f"cat {POLICY} 2>/dev/null || test $? = 1")
    machine.shell(f"rm -f {POLICY}")
    assert left == ("" if before == "killed" else before.strip())


def test_finishes_a_package_installation_that_was_killed(machine: Machine, plan: Plan, site: Site) -> None:
    once = "test -e /var/tmp/killed || { touch /var/tmp/killed; kill -KILL $PPID; sleep 9; }"
    files = {"/usr/bin/tool": "#!/bin/sh\n"}
    deb = site.deb("tool", "6.0-1", files, scripts={"postinst": f"#!/bin/sh\n{once}\n"})
    site.apt_repository(URL, [deb], KEY, suite="./")
    tasks = [repository(site), {"apt_packages": {"names": ["tool"], "version": "6.*", "hold": True}}, END]
    assert not machine.apply(plan, tasks=tasks).passed
    assert "half-configured" in machine.shell("dpkg-query --show --showformat '${Status}' tool")
    succeed(machine.apply(plan, tasks=tasks))
    assert machine.shell("dpkg-query --show --showformat '${Status}' tool") == "hold ok installed"


def test_machine_keeps_a_disabled_package_source_with_the_vendors_url(
    machine: Machine, plan: Plan, site: Site
) -> None:
    publish(site, "1.0-1")
    succeed(machine.apply(plan, tasks=[repository(site), END]))
    files = machine.shell("find /etc/apt/sources.list.d /etc/apt/keyrings -type f").split()
    assert sorted(files) == ["/etc/apt/keyrings/vendor.gpg", "/etc/apt/sources.list.d/vendor.sources"]
    kept = machine.shell("cat /etc/apt/sources.list.d/vendor.sources")
    assert "127.0.0.1" not in kept
    assert {f"URIs: {URL}", "Enabled: no"} <= set(kept.splitlines())
    assert "Signed-By: /etc/apt/keyrings/vendor.gpg" in kept
    assert machine.shell("apt-get indextargets --format '$(SITE)' | grep -c vendor || test $? = 1") == "0"


def test_adding_a_repository_keeps_the_mtime_of_the_package_lists(
    machine: Machine, plan: Plan, site: Site
) -> None:
    publish(site, "1.0-1")
    machine.shell("touch -d @1000000000 /var/lib/apt/lists")
    succeed(machine.apply(plan, tasks=[repository(site)]))
    assert machine.shell("stat -c %Y /var/lib/apt/lists") == "1000000000"


def test_refuses_a_repository_signed_by_another_key(
    machine: Machine, plan: Plan, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    publish(site, "1.0-1")
    wanted = repository(site)
    with serve(tmp_path_factory.mktemp("t"), {}) as other:
        publish(other, "1.0-1")
        for name in ("InRelease", "Release", "Release.gpg"):
            theirs = other.url_file(URL) / name
            (site.url_file(URL) / name).write_bytes(theirs.read_bytes())
    play = machine.apply(plan, tasks=[wanted])
    assert play.failure is not None
    assert play.failure.message.startswith(
        f"{URL} does not match its lock: expected a repository signed by {KEY}"
    )
    assert play.failure.url
    assert play.failure.expected
    assert play.failure.actual


def test_refuses_a_changed_package_list(machine: Machine, plan: Plan, site: Site) -> None:
    publish(site, "1.0-1")
    wanted = repository(site)
    for name in ("Packages", "Packages.gz"):
        (site.url_file(URL) / name).write_bytes(b"changed")
    play = machine.apply(plan, tasks=[wanted])
    assert play.failure is not None
    assert f"{URL}: reading the package lists failed: " in play.failure.message


def test_refuses_a_repository_that_does_not_answer(machine: Machine, plan: Plan, site: Site) -> None:
    publish(site, "1.0-1")
    wanted = repository(site, url="https://vendor.example/nothing/")
    play = machine.apply(plan, tasks=[wanted])
    assert play.failure is not None
    assert play.failure.message.startswith(
        "https://vendor.example/nothing/: reading the package lists failed: E"
    )


@contextmanager
def locked(machine: Machine, path: str, *, for_s: int) -> Iterator[None]:
    """Hold a lock file of the package manager for `for_s` seconds or until the end of the block."""
    hold = f"import fcntl, select; f = open('{path}', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    hold += f"; select.select([], [], [], {for_s})"
    machine.shell(f'setsid python3 -c "{hold}" >/dev/null 2>&1 & echo $! > /run/holder')
    assert until(
        lambda: path in machine.shell("lslocks --noheadings --output PATH || true"), timeout_s=10, every_s=0.1
    )
    try:
        yield
    finally:
        machine.shell("kill $(cat /run/holder) 2>/dev/null || test $? = 1")


LOCKS = ["/var/lib/dpkg/lock-frontend", "/var/lib/apt/lists/lock"]


@pytest.mark.parametrize("lock", LOCKS)
def test_waits_until_the_package_lock_is_released(
    machine: Machine, plan: Plan, site: Site, lock: str
) -> None:
    publish(site, "1.0-1")
    machine.shell("touch -d @1000000000 /var/lib/apt/lists")
    with locked(machine, lock, for_s=4):
        succeed(machine.apply(plan, tasks=[repository(site), install("1.0-1")]))


@pytest.mark.parametrize("lock", LOCKS)
def test_fails_if_the_package_lock_is_not_released(
    machine: Machine, plan: Plan, site: Site, lock: str
) -> None:
    publish(site, "1.0-1")
    succeed(machine.apply(plan, tasks=[repository(site)]))
    machine.shell("touch -d @1000000000 /var/lib/apt/lists")
    tasks = [{**INSTALL, "vars": {**install("1.0-1")["vars"], "install_wait_s": 2}}]
    with locked(machine, lock, for_s=300):
        play = machine.apply(plan, tasks=tasks)
    assert play.failure is not None
    assert f"lock {lock}" in play.failure.message + play.failure.details


def test_no_mirror_url_remains_on_the_machine(machine: Machine, plan: Plan, site: Site) -> None:
    publish(site, "1.0-1")
    succeed(machine.apply(plan, tasks=[repository(site), install("1.0-1"), END]))
    found = machine.shell(f"grep -rl 127.0.0.1:{site.port} /etc /usr /var || test $? = 1").split()
    # The role `cleanup` removes apt's caches.
    assert [path for path in found if not path.startswith("/var/cache/apt/")] == []


KERNEL = [
    {"ansible.builtin.include_tasks": f"{TASKS}/kernel_of_base.yml"},
    {"ansible.builtin.copy": {"content": "{{ target_kernel }}", "dest": "/tmp/kernel", "mode": "0644"}},
]


@pytest.fixture
def of_series(site: Site, machine: Machine) -> Iterator[Plan]:
    yield overlay.plan_of(RoleRequest(components=["base"], pins={"kernel": "6.1"}), site)
    machine.shell("rm -rf /lib/modules /tmp/kernel")


def test_selects_the_newest_kernel_of_the_pinned_series(machine: Machine, of_series: Plan) -> None:
    kernels = ("6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.0-1-amd64")
    machine.shell(f"cd / && mkdir -p {' '.join(f'lib/modules/{name}' for name in kernels)}")
    succeed(machine.apply(of_series, tasks=KERNEL))
    assert machine.shell("cat /tmp/kernel") == "6.1.0-10-amd64"


def test_refuses_a_base_image_without_a_kernel_of_the_pinned_series(
    machine: Machine, of_series: Plan
) -> None:
    machine.shell("mkdir -p /lib/modules/6.12.0-1-amd64")
    play = machine.apply(of_series, tasks=KERNEL)
    assert "pins kernel series 6.1; the base image has 6.12.0-1-amd64" in str(play.failure)


INITRAMFS = "/usr/sbin/update-initramfs"
MENU = "/usr/sbin/update-grub"
DEFER = {"initramfs": {"state": "deferred"}}
BUILD = {"initramfs": {"state": "built"}}


@pytest.fixture
def program(machine: Machine) -> Iterator[str]:
    """Install a fake update-initramfs that logs its arguments and fails if /tmp/full exists."""
    content = "#!/bin/sh\necho $* >> /var/log/initramfs-calls\ntest ! -e /tmp/full\n"
    machine.put({INITRAMFS: content, MENU: "#!/bin/sh\necho menu >> /var/log/initramfs-calls\n"})
    yield content.strip()
    assert machine.shell(f"dpkg-divert --list {INITRAMFS}") == ""
    assert machine.shell(f"cat {INITRAMFS}") == content.strip()
    machine.shell(f"rm -f {INITRAMFS} {MENU} /var/log/initramfs-calls")


def request_build(*words: str) -> dict[str, Any]:
    return {"ansible.builtin.command": {"argv": [INITRAMFS, *words]}}


def read_log(machine: Machine) -> list[str]:
    return machine.shell("cat /var/log/initramfs-calls 2>/dev/null || test $? = 1").splitlines()


@pytest.mark.usefixtures("program")
def test_initramfs_is_built_once_and_only_if_requested(machine: Machine, plan: Plan) -> None:
    requests = [
        request_build("-u"),
        request_build("-c", "-k", "6.1.0-50-amd64"),
        request_build("-d", "-k", "6.1.0-49-amd64"),
    ]
    play = succeed(machine.apply(plan, tasks=[DEFER, *requests, BUILD]))
    assert read_log(machine) == ["-d -k 6.1.0-49-amd64", "-c -k all", "menu"]
    assert len(play.changed) == len([*requests, BUILD])
    before = machine.shell("ls -l --time-style=full-iso /var/lib/dpkg/*-old")
    assert succeed(machine.apply(plan, tasks=[DEFER, BUILD])).changed == []
    assert len(read_log(machine)) == 3
    assert machine.shell("ls -l --time-style=full-iso /var/lib/dpkg/*-old") == before


@pytest.mark.usefixtures("program")
def test_next_run_builds_a_deferred_initramfs(machine: Machine, plan: Plan) -> None:
    succeed(machine.apply(plan, tasks=[DEFER, request_build("-u")]))
    machine.shell("touch /tmp/full")
    play = machine.apply(plan, tasks=[DEFER, BUILD])
    assert f"{INITRAMFS}.aside -c -k all: exit code 1" in str(play.failure)
    machine.shell("rm /tmp/full; > /var/log/initramfs-calls")
    succeed(machine.apply(plan, tasks=[DEFER, BUILD]))
    assert read_log(machine) == ["-c -k all", "menu"]


@pytest.mark.usefixtures("program")
def test_initramfs_is_not_built_without_a_deferral(machine: Machine, plan: Plan) -> None:
    assert succeed(machine.apply(plan, tasks=[BUILD])).changed == []


def test_restores_update_initramfs_if_a_package_installs_it_while_deferred(
    machine: Machine, plan: Plan, site: Site
) -> None:
    succeed(machine.apply(plan, tasks=[DEFER, request_build("-u"), BUILD]))
    assert machine.shell(f"ls {INITRAMFS}* 2>/dev/null || test $? = 2") == ""
    site.apt_repository(URL, [site.deb("tool", "1.0-1", {INITRAMFS: "#!/bin/sh\n"})], KEY, suite="./")
    tool = {**INSTALL, "vars": {"install_packages": ["tool"]}}
    succeed(machine.apply(plan, tasks=[DEFER, repository(site), tool, request_build("-u"), BUILD]))
    assert machine.shell("dpkg --verify tool") == ""
    assert machine.shell(f"dpkg-divert --list {INITRAMFS}") == ""
