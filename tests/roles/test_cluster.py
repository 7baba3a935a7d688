"""Tests of cluster roles on base images that contain Slurm, Slurm plugins or EKS programs."""

from collections.abc import Iterator

import pytest

from builder.adapters.ansible.apply import Applied
from builder.app.role_plan import RoleRequest
from builder.model import Plan
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay, pyxis
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

PINS = {
    "enroot": "4.1.2",
    "kernel": "6.1.0-1-amd64",
    "lustre_client": "2.15.6-1fsx21",
    "pyxis": "0.24.0",
}
JOBS = ("enroot", "pyxis", "slurm")
PLUGSTACK = "# of the base image\noptional /usr/lib/slurm/other.so\ninclude /etc/slurm/plugstack.conf.d/*\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s"), dict(PINS)) as served:
        yield served


@pytest.fixture(scope="module")
def machine(site: Site) -> Iterator[Machine]:
    with open_machine(plan_of(site, "packages"), site=site, label="cluster") as opened:
        opened.shell(f"mkdir -p /etc/slurm && printf '{PLUGSTACK}' > /etc/slurm/plugstack.conf")
        yield opened


def plan_of(site: Site, *components: str, **pins: str) -> Plan:
    site.pins = {**PINS, **pins}
    return overlay.plan_of(RoleRequest(components=components, pins=site.pins), site)


def apply(machine: Machine, site: Site, *components: str, **pins: str) -> Applied:
    assert machine.site is site
    return machine.apply(plan_of(site, *components, **pins))


def message_of(play: Applied) -> str:
    assert play.failure is not None
    return play.failure.message + play.failure.details


def test_keeps_the_slurm_plugins_of_the_base_image(machine: Machine, site: Site) -> None:
    play = apply(machine, site, *JOBS, enroot="4.1.0", pyxis="0.23.0")
    assert play.passed, play.failure
    assert machine.shell("cat /etc/slurm/plugstack.conf") + "\n" == PLUGSTACK


def test_replaces_another_version_of_enroot_and_pyxis(machine: Machine, site: Site) -> None:
    plan = plan_of(site, *JOBS)
    play = machine.apply(plan)
    assert play.passed, play.failure
    assert machine.shell("ls /opt/pyxis") == PINS["pyxis"]
    assert machine.failures(plan) == []


def test_a_compiler_error_keeps_the_installed_slurm_plugin(
    machine: Machine, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert apply(machine, site, *JOBS).passed
    monkeypatch.setattr(pyxis, "SOURCE", "#include <slurm/no_such_header.h>\n")
    message = message_of(apply(machine, site, *JOBS, pyxis="0.99.0"))
    assert "fatal error: slurm/no_such_header.h" in message
    named = machine.shell("cat /etc/slurm/plugstack.conf.d/pyxis.conf").split()[1]
    assert named.startswith(f"/opt/pyxis/{PINS['pyxis']}/")
    assert machine.shell(f"test -s {named}; ls /opt/pyxis") == PINS["pyxis"]


@pytest.fixture
def slurm_of_base_image(machine: Machine, site: Site) -> Iterator[str]:
    """Install Slurm with a plugin of its own in /opt/slurm, as the base images of clusters do."""
    assert apply(machine, site, "slurm").passed
    machine.shell(
        "mkdir -p /opt/slurm/bin /opt/slurm/include /opt/slurm/etc"
        "; for name in sinfo srun scontrol sbatch squeue; do cp /usr/bin/$name /opt/slurm/bin; done"
        "; cp -r /usr/include/slurm /opt/slurm/include"
        "; printf 'optional /opt/slurm/lib/other.so\\n' > /opt/slurm/etc/plugstack.conf"
    )
    yield "/opt/slurm"
    machine.shell("rm -rf /opt/slurm /etc/systemd/system/slurmd.service.d")


def test_keeps_the_slurm_of_the_base_image(machine: Machine, site: Site, slurm_of_base_image: str) -> None:
    assert slurm_of_base_image
    before = machine.shell("dpkg-query --list | md5sum; ls -lR /opt/slurm/bin")
    play = apply(machine, site, *JOBS)
    assert play.passed, play.failure
    assert play.roles["slurm"].changed == []
    assert machine.shell("dpkg-query --list | md5sum; ls -lR /opt/slurm/bin") == before
    assert machine.shell("cat /opt/slurm/etc/plugstack.conf").splitlines() == [
        "optional /opt/slurm/lib/other.so",
        "include /opt/slurm/etc/plugstack.conf.d/*.conf",
    ]
    assert "PATH=/opt/slurm/bin:" in machine.shell("cat /etc/systemd/system/slurmd.service.d/image-path.conf")
    second = apply(machine, site, *JOBS)
    assert second.changed == []


@pytest.mark.usefixtures("slurm_of_base_image")
def test_refuses_a_base_image_with_another_slurm(machine: Machine, site: Site) -> None:
    message = message_of(apply(machine, site, "slurm", slurm="25.11.8"))
    assert "the stack pins Slurm 25.11.8; the base image has slurm-wlm 22.05" in message
    assert "/opt/slurm/bin" in message


def test_refuses_a_kernel_without_a_lustre_module_before_installing(machine: Machine, site: Site) -> None:
    plan = plan_of(site, "lustre_client")
    pins = {**PINS, "kernel": "6.1.0-2-amd64"}
    play = machine.apply(overlay.plan_of(RoleRequest(components=["lustre_client"], pins=pins), site))
    message = message_of(play)
    assert "has no lustre-client-modules-6.1.0-2-amd64" in message
    assert "6.1.0-1-amd64, 6.1.0-1-cloud-amd64, 6.8.0-1039-aws" in message
    assert machine.shell("dpkg-query --list 'lustre*' 2>/dev/null | grep -c ^ii || test $? = 1") == "0"
    assert machine.apply(plan).passed
    assert machine.failures(plan) == []


def test_refuses_a_base_image_that_is_not_an_eks_node(machine: Machine, site: Site) -> None:
    message = message_of(apply(machine, site, "eks_node"))
    assert "nodeadm, kubelet, containerd not in /usr/bin" in message


def test_accepts_an_eks_node_without_changing_it(machine: Machine, site: Site) -> None:
    plan = plan_of(site, "eks_node")
    machine.put(site.base)
    machine.shell("systemctl daemon-reload")
    play = machine.apply(plan)
    assert play.passed, play.failure
    assert play.roles["eks_node"].changed == []
    assert machine.failures(plan) == []
    # The checks must find changes by later roles.
    machine.shell("sed -i s/v1.33.13/v1.33.14/ /usr/bin/kubelet; systemctl --quiet enable kubelet")
    found = "\n".join(machine.failures(plan))
    assert "test_kubelet_has_the_version_of_the_base_image" in found
    assert "test_only_nodeadm_units_are_enabled" in found
