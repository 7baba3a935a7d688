"""The driver: modules of the pinned version for the kernel of the image, libraries of no other version."""

import re

import pytest
from checks import held, module_info

MODULES = ("", "-uvm", "-modeset", "-drm", "-peermem")
LICENSES = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}
# Drivers from this branch on manage coherent memory by themselves when they are told to.
COHERENT_FROM = 580
# What serves several versions of the driver, and is versioned by itself.
INDEPENDENT = {"nvidia-modprobe", "nvidia-persistenced", "nvidia-settings", "nvidia-xconfig"}
LIST_PACKAGES = {
    "debian": "dpkg-query --show --showformat '${db:Status-Abbrev} ${Package} ${Version}\\n'",
    "redhat": "rpm --query --all --queryformat 'ii %{NAME} %{VERSION}-%{RELEASE}\\n'",
}
OWNER = {"debian": "dpkg-query --search %s", "redhat": "rpm --query --queryformat '%%{NAME}' --file %s"}
FAKE_DEVICE = "mkdir -p %s && echo %s > %s/vendor && echo %s > %s/class && echo %s > %s/device"


@pytest.fixture
def upstream(expected):
    """The version without what an archive adds."""
    return expected.versions["nvidia_driver"].partition("-")[0]


@pytest.fixture
def source(host):
    """What dkms calls the sources: nvidia, nvidia-open, nvidia-current, nvidia-current-open."""
    names = set(re.findall(r"^(nvidia[a-z-]*)(?:/|, )", host.check_output("dkms status"), re.MULTILINE))
    assert len(names) == 1
    return names.pop()


@pytest.fixture
def module(source):
    """The file name of the first module; Debian's are called after its packages."""
    return source if "current" in source else "nvidia"


def owner_of(host, expected, path):
    said = host.check_output(OWNER[expected.capabilities["system_family"]], path)
    return said.partition(":")[0]


def test_every_module_is_installed(host, expected):
    # dkms itself ends well whatever it has to say.
    lines = host.check_output("dkms status").splitlines()
    assert lines
    assert [line for line in lines if not line.endswith(": installed")] == []
    kernel = expected.capabilities["target_kernel"]
    assert [line for line in lines if f"{kernel}," not in line] == []


@pytest.mark.parametrize("part", MODULES)
def test_module_fits_the_kernel_of_the_image(host, expected, upstream, module, part):
    kernel = expected.capabilities["target_kernel"]
    info = module_info(host, kernel, f"{module}{part}")
    assert info["vermagic"].split()[0] == kernel
    assert info["version"] == upstream


def test_module_is_of_the_wanted_flavor(host, expected, module):
    info = module_info(host, expected.capabilities["target_kernel"], module)
    assert info["license"] == LICENSES[expected.variables["nvidia_driver_flavor"]]


def test_there_are_no_other_modules_of_the_driver(host, expected, module):
    kernel = expected.capabilities["target_kernel"]
    # The kernel itself has one that switches the light of screens.
    find = "find /lib/modules/%s -name 'nvidia*.ko*' -not -path '*/drivers/platform/*' -printf '%%f\\n'"
    found = host.check_output(find, kernel).split()
    assert sorted(name.partition(".ko")[0] for name in found) == sorted(f"{module}{part}" for part in MODULES)


def test_all_packages_are_of_one_version(host, expected, upstream):
    lines = host.check_output(LIST_PACKAGES[expected.capabilities["system_family"]]).splitlines()
    packages = [line.split() for line in lines if line.startswith(("ii", "hi"))]
    versions = {
        name: version.partition("-")[0].partition(":")[2] or version.partition("-")[0]
        for _, name, version in packages
        if re.search(r"nvidia|^libcuda1", name) and re.match(r"(\d:)?\d{3}\.\d+", version)
    }
    different = {name: version for name, version in versions.items() if version != upstream}
    assert set(different) <= INDEPENDENT
    branch = upstream.partition(".")[0]
    assert {name: version for name, version in different.items() if version.split(".")[0] != branch} == {}


def test_packages_are_held(host, expected, source, upstream):
    program = host.check_output("readlink -f $(command -v nvidia-smi)")
    paths = (f"/usr/src/{source}-{upstream}/dkms.conf", program)
    names = [owner_of(host, expected, path) for path in paths]
    assert [name for name in names if not held(host, name)] == []


def test_driver_comes_from_packages(host):
    # An installer that runs by itself is known to no package manager, and undone by every update of a kernel.
    assert not host.exists("nvidia-uninstall")
    assert not host.file("/var/log/nvidia-installer.log").exists


def test_program_says_that_there_is_no_gpu(host, expected):
    run = host.run("nvidia-smi")
    assert run.rc == (0 if expected.capabilities.get("gpu") else 9), run.stdout


def test_loader_knows_the_library_of_cuda(host, upstream):
    path = host.check_output(
        "ldconfig -p | awk '/libcuda[.]so[.]1 .*x86-64|libcuda[.]so[.]1 .*AArch64/ {print $NF}'"
    )
    assert host.check_output("readlink -f %s", path.splitlines()[0]).endswith(f"libcuda.so.{upstream}")


def test_nouveau_is_kept_out(host):
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()


def test_nouveau_is_kept_out_from_the_first_moment_on(host, expected):
    first = host.file(f"/boot/initrd.img-{expected.capabilities['target_kernel']}")
    if not first.exists:
        first = host.file(f"/boot/initramfs-{expected.capabilities['target_kernel']}.img")
    assert first.exists
    lister = "lsinitramfs" if host.exists("lsinitramfs") else "lsinitrd"
    names = host.check_output(f"{lister} {first.path}").split()
    assert [name for name in names if re.search(r"/nouveau\.ko", name)] == []
    assert [name for name in names if name.endswith("modprobe.d/nvidia-driver.conf")]


def test_parameters_are_those_of_the_module_that_is_loaded(host, expected, upstream, module):
    config = host.check_output("modprobe --showconfig").splitlines()
    wanted = dict(expected.variables["nvidia_driver_parameters"])
    if int(upstream.partition(".")[0]) >= COHERENT_FROM:
        wanted["NVreg_CoherentGPUMemoryMode"] = "driver"
    prefix = f"options {module.replace('-', '_')} "
    found = dict(line.removeprefix(prefix).split("=", 1) for line in config if line.startswith(prefix))
    assert found == {name: str(value) for name, value in wanted.items()}


def test_no_key_for_signing_stays(host):
    keys = "/var/lib/dkms/mok.key /var/lib/shim-signed/mok/MOK.priv"
    assert host.run(f"ls {keys}").stdout == ""


def test_no_tree_of_the_build_stays(host):
    assert host.check_output("find /var/lib/dkms -path '*/build/*' -print -quit") == ""


@pytest.mark.parametrize(
    ("wanted", "devices", "code"),
    [
        ("gpu", [("0x10de", "0x030200", "0x2330")], 0),
        ("gpu", [("0x1d0f", "0x020000", "0xefa2"), ("0x10de", "0x068000", "0x22a3")], 1),
        ("gpu", [], 1),
        ("nvswitch", [("0x10de", "0x030200", "0x2330"), ("0x10de", "0x068000", "0x22a3")], 0),
        ("nvswitch", [("0x10de", "0x030200", "0x1eb8")], 1),
        ("nvswitch", [("0x10de", "0x030200", "0x2941"), ("0x10de", "0x068000", "0x22a3")], 1),
        ("nvswitch", [("0x15b3", "0x020700", "0x1021")], 1),
        ("nvswitch", [("0x15b3", "0x020700", "0x1021", "SW_MNG")], 0),
    ],
)
def test_devices_are_told_apart(host, wanted, devices, code):
    folder = host.check_output("mktemp -d")
    try:
        for i, (vendor, kind, model, *data) in enumerate(devices):
            path = f"{folder}/{i}"
            host.check_output(FAKE_DEVICE, path, vendor, path, kind, path, model, path)
            if data:
                host.check_output("printf 'V0\\0%s' > %s/vpd", data[0], path)
        assert host.run("/usr/local/libexec/nvidia-present %s %s", wanted, folder).rc == code
    finally:
        host.check_output("rm -r %s", folder)


@pytest.mark.needs("gpu")
def test_every_gpu_is_seen(host, upstream):
    query = "driver_version,persistence_mode,ecc.mode.current"
    lines = host.check_output(f"nvidia-smi --query-gpu={query} --format=csv,noheader").splitlines()
    assert lines
    for line in lines:
        version, persistence, correction = (word.strip() for word in line.split(","))
        assert (version, persistence) == (upstream, "Enabled")
        assert correction in ("Enabled", "[N/A]")


@pytest.mark.needs("gpu")
def test_no_gpu_has_failed(host):
    assert host.run("dmesg | grep -E 'Xid.*: (48|64|79|95|119|120),'").stdout == ""
