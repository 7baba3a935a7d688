"""Checks of an EKS node: the base AMI's programs are unchanged, and only nodeadm starts them."""

import pytest


@pytest.fixture
def programs(host, expected):
    path = ":".join(expected.variables["eks_node_folders"])
    return {
        name: host.check_output(f"PATH={path}:$PATH command -v %s", name)
        for name in expected.variables["eks_node_programs"]
    }


def test_node_programs_run(host, programs):
    assert host.check_output("%s --version", programs["kubelet"]).startswith("Kubernetes v")
    assert host.check_output("%s --version", programs["containerd"]).startswith("containerd ")
    assert host.run("test -x %s", programs["nodeadm"]).rc == 0


def test_kubelet_has_the_version_of_the_base_image(host, programs):
    # The EKS optimized image records the version of its kubelet.
    record = host.file("/etc/eks/kubelet-version.txt")
    assert record.content_string.strip() == host.check_output("%s --version", programs["kubelet"])


def test_packages_of_the_base_image_are_unchanged(host):
    # Configuration files, which the output marks with c, may differ; programs may not.
    if host.exists("rpm"):
        changed = host.run("rpm --verify containerd runc").stdout.splitlines()
    else:
        changed = host.run("dpkg --verify containerd runc").stdout.splitlines()
    assert [line for line in changed if " c " not in line] == []


def test_node_has_joined_no_cluster(host):
    for path in ("/var/lib/kubelet/kubeconfig", "/etc/kubernetes/kubelet/config.json"):
        assert not host.file(path).exists


@pytest.mark.needs("has_systemd")
def test_only_nodeadm_units_are_enabled(host):
    for unit in ("nodeadm-config", "nodeadm-run"):
        assert host.check_output("systemctl is-enabled %s", unit) == "enabled"
    # nodeadm configures and then starts kubelet and containerd, so systemd must not start them.
    for unit in ("kubelet", "containerd"):
        assert host.run("systemctl is-enabled %s", unit).stdout.strip() == "disabled"


def test_docker_is_not_installed(host):
    assert not host.exists("dockerd")
