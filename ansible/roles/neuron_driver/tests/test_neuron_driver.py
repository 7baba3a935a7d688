"""Neuron's kernel module: the pinned version, for the kernel of the image, loaded at boot, for everybody."""

from checks import held, module_info, package_version
from checks.neuron import is_of

PACKAGE = "aws-neuronx-dkms"


def test_package_is_pinned_and_held(host, expected):
    assert is_of(expected.versions["neuron_driver"], package_version(host, PACKAGE))
    assert held(host, PACKAGE)


def test_module_is_for_the_kernel_of_the_image(host, expected):
    kernel = expected.capabilities["target_kernel"]
    module = module_info(host, kernel, "neuron")
    assert module["vermagic"].split()[0] == kernel
    assert is_of(expected.versions["neuron_driver"], module["version"])


def test_module_is_installed_and_not_only_built(host, expected):
    lines = [
        line for line in host.check_output("dkms status").splitlines() if line.startswith("aws-neuronx/")
    ]
    kernel = expected.capabilities["target_kernel"]
    assert [line for line in lines if kernel in line]
    assert [line for line in lines if not line.endswith(": installed")] == []


def test_module_is_loaded_at_boot(host):
    assert "neuron" in host.check_output("cat /etc/modules-load.d/neuron.conf").split()


def test_devices_are_for_everybody(host):
    # Without this a job has to run as root.
    rules = host.check_output("cat /etc/udev/rules.d/*neuron*.rules")
    assert 'KERNEL=="neuron[0-9]*", MODE="0666"' in rules


def test_repository_is_signed(host):
    # Packages of a repository that nobody signed are whatever the network says they are.
    sources = host.run("grep -rslE '(apt|yum)[.]repos[.]neuron' /etc/apt /etc/yum.repos.d").stdout.split()
    assert sources
    for path in sources:
        text = host.file(path).content_string
        assert "Signed-By:" in text or "gpgcheck=1" in text
    assert host.run("apt-key list 2>/dev/null | grep -i neuron").stdout == ""
