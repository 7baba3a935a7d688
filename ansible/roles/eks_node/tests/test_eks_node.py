"""A node of EKS: what the base brings is there, as the base left it, and waits for nodeadm to start it."""

import pytest


@pytest.fixture
def programs(host, expected):
    path = ":".join(expected.variables["eks_node_folders"])
    return {
        name: host.check_output(f"PATH={path}:$PATH command -v %s", name)
        for name in expected.variables["eks_node_programs"]
    }


def test_programs_answer(host, programs):
    assert host.check_output("%s --version", programs["kubelet"]).startswith("Kubernetes v")
    assert host.check_output("%s --version", programs["containerd"]).startswith("containerd ")
    assert host.run("test -x %s", programs["nodeadm"]).rc == 0


def test_kubelet_is_the_one_of_the_base(host, programs):
    # The base writes down what it was published with.
    record = host.file("/etc/eks/kubelet-version.txt")
    assert record.content_string.strip() == host.check_output("%s --version", programs["kubelet"])


def test_packages_of_the_base_are_as_they_were(host):
    # Settings may differ (c); programs may not.
    if host.exists("rpm"):
        changed = host.run("rpm --verify containerd runc").stdout.splitlines()
    else:
        changed = host.run("dpkg --verify containerd runc").stdout.splitlines()
    assert [line for line in changed if " c " not in line] == []


def test_node_has_joined_no_cluster(host):
    for path in ("/var/lib/kubelet/kubeconfig", "/etc/kubernetes/kubelet/config.json"):
        assert not host.file(path).exists


@pytest.mark.needs("has_systemd")
def test_nodeadm_starts_the_rest(host):
    for unit in ("nodeadm-config", "nodeadm-run"):
        assert host.check_output("systemctl is-enabled %s", unit) == "enabled"
    # It writes their settings first; one that starts by itself starts without them.
    for unit in ("kubelet", "containerd"):
        assert host.run("systemctl is-enabled %s", unit).stdout.strip() == "disabled"


def test_there_is_one_runtime_of_containers(host):
    assert not host.exists("dockerd")
