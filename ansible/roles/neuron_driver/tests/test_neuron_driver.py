"""Checks of the Neuron kernel module: the pinned version, for the image's kernel, loaded at boot."""

from checks import held, module_info, package_version
from checks.neuron import matches_release

PACKAGE = "aws-neuronx-dkms"


def test_package_is_pinned_and_held(host, expected):
    assert matches_release(expected.versions["neuron_driver"], package_version(host, PACKAGE))
    assert held(host, PACKAGE)


def test_module_matches_the_kernel(host, expected):
    kernel = expected.capabilities["target_kernel"]
    module = module_info(host, kernel, "neuron")
    assert module["vermagic"].split()[0] == kernel
    assert matches_release(expected.versions["neuron_driver"], module["version"])


def test_module_is_installed(host, expected):
    lines = [
        line for line in host.check_output("dkms status").splitlines() if line.startswith("aws-neuronx/")
    ]
    kernel = expected.capabilities["target_kernel"]
    assert [line for line in lines if kernel in line]
    assert [line for line in lines if not line.endswith(": installed")] == []


def test_module_is_loaded_at_boot(host):
    assert "neuron" in host.check_output("cat /etc/modules-load.d/neuron.conf").split()


def test_all_users_may_access_devices(host):
    # Without the udev rule, only root can use the devices.
    rules = host.check_output("cat /etc/udev/rules.d/*neuron*.rules")
    assert 'KERNEL=="neuron[0-9]*", MODE="0666"' in rules


def test_repository_is_signed(host):
    # Packages of an unsigned repository can be replaced on the network.
    sources = host.run("grep -rslE '(apt|yum)[.]repos[.]neuron' /etc/apt /etc/yum.repos.d").stdout.split()
    assert sources
    for path in sources:
        text = host.file(path).content_string
        assert "Signed-By:" in text or "gpgcheck=1" in text
    assert host.run("apt-key list 2>/dev/null | grep -i neuron").stdout == ""
