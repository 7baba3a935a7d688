"""Checks of the NVIDIA driver: kernel modules and libraries of the pinned version for the image's kernel."""

import re

import pytest
from checks import held, module_info

MODULES = ("", "-uvm", "-modeset", "-drm", "-peermem")
LICENSES = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}
# First driver branch with the parameter NVreg_CoherentGPUMemoryMode.
COHERENT_FROM = 580
# Packages with their own version numbers, which work with several driver versions.
INDEPENDENT = {"nvidia-modprobe", "nvidia-persistenced", "nvidia-settings", "nvidia-xconfig"}
LIST_PACKAGES = {
    "debian": "dpkg-query --show --showformat '${db:Status-Abbrev} ${Package} ${Version}\\n'",
    "redhat": "rpm --query --all --queryformat 'ii %{NAME} %{VERSION}-%{RELEASE}\\n'",
}
OWNER = {"debian": "dpkg-query --search %s", "redhat": "rpm --query --queryformat '%%{NAME}' --file %s"}
FAKE_DEVICE = "mkdir -p %s && echo %s > %s/vendor && echo %s > %s/class && echo %s > %s/device"


@pytest.fixture
def upstream(expected):
    """Return the upstream version without the package revision."""
    return expected.versions["nvidia_driver"].partition("-")[0]


@pytest.fixture
def source(host):
    """Return the name of the sources in dkms: nvidia, nvidia-open, nvidia-current or nvidia-current-open."""
    names = set(re.findall(r"^(nvidia[a-z-]*)(?:/|, )", host.check_output("dkms status"), re.MULTILINE))
    assert len(names) == 1
    return names.pop()


@pytest.fixture
def module(source):
    """Return the name of the main module; Debian names modules after its packages."""
    return source if "current" in source else "nvidia"


def owner_of(host, expected, path):
    output = host.check_output(OWNER[expected.capabilities["system_family"]], path)
    return output.partition(":")[0]


def test_all_dkms_modules_are_installed(host, expected):
    # dkms status exits with 0 even if modules are not installed.
    lines = host.check_output("dkms status").splitlines()
    assert lines
    assert [line for line in lines if not line.endswith(": installed")] == []
    kernel = expected.capabilities["target_kernel"]
    assert [line for line in lines if f"{kernel}," not in line] == []


@pytest.mark.parametrize("part", MODULES)
def test_module_matches_the_kernel(host, expected, upstream, module, part):
    kernel = expected.capabilities["target_kernel"]
    info = module_info(host, kernel, f"{module}{part}")
    assert info["vermagic"].split()[0] == kernel
    assert info["version"] == upstream


def test_module_has_the_selected_flavor(host, expected, module):
    info = module_info(host, expected.capabilities["target_kernel"], module)
    assert info["license"] == LICENSES[expected.variables["nvidia_driver_flavor"]]


def test_no_other_driver_modules_are_installed(host, expected, module):
    kernel = expected.capabilities["target_kernel"]
    # The kernel's own drivers/platform has nvidia-wmi-ec-backlight.
    find = "find /lib/modules/%s -name 'nvidia*.ko*' -not -path '*/drivers/platform/*' -printf '%%f\\n'"
    found = host.check_output(find, kernel).split()
    assert sorted(name.partition(".ko")[0] for name in found) == sorted(f"{module}{part}" for part in MODULES)


def test_all_packages_have_one_version(host, expected, upstream):
    lines = host.check_output(LIST_PACKAGES[expected.capabilities["system_family"]]).splitlines()
    packages = [line.split() for line in lines if line.startswith(("ii", "hi"))]
    versions = {
        name: version.partition("-")[0].partition(":")[2] or version.partition("-")[0]
        for _, name, version in packages
        if re.search(r"nvidia|^libcuda1", name) and re.match(r"(\d:)?\d{3}\.\d+", version)
    }
    different = {name: version for name, version in versions.items() if version != upstream}
    assert set(different) <= INDEPENDENT
    # Debian 13 has the driver 550 with nvidia-modprobe 570.
    branch = int(upstream.partition(".")[0])
    assert {name: version for name, version in different.items() if int(version.split(".")[0]) < branch} == {}


def test_packages_are_held(host, expected, source, upstream):
    program = host.check_output("readlink -f $(command -v nvidia-smi)")
    paths = (f"/usr/src/{source}-{upstream}/dkms.conf", program)
    names = [owner_of(host, expected, path) for path in paths]
    assert [name for name in names if not held(host, name)] == []


def test_driver_is_installed_from_packages(host):
    # The .run installer bypasses the package manager, and kernel updates break its modules.
    assert not host.exists("nvidia-uninstall")
    assert not host.file("/var/log/nvidia-installer.log").exists


def test_nvidia_smi_reports_a_missing_gpu(host, expected):
    run = host.run("nvidia-smi")
    assert run.rc == (0 if expected.capabilities.get("gpu") else 9), run.stdout


def test_loader_finds_libcuda(host, upstream):
    path = host.check_output(
        "ldconfig -p | awk '/libcuda[.]so[.]1 .*x86-64|libcuda[.]so[.]1 .*AArch64/ {print $NF}'"
    )
    assert host.check_output("readlink -f %s", path.splitlines()[0]).endswith(f"libcuda.so.{upstream}")


def test_nouveau_is_blacklisted(host):
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()


def test_initramfs_has_the_blacklist_and_no_nouveau(host, expected):
    first = host.file(f"/boot/initrd.img-{expected.capabilities['target_kernel']}")
    if not first.exists:
        first = host.file(f"/boot/initramfs-{expected.capabilities['target_kernel']}.img")
    assert first.exists
    lister = "lsinitramfs" if host.exists("lsinitramfs") else "lsinitrd"
    names = host.check_output(f"{lister} {first.path}").split()
    assert [name for name in names if re.search(r"/nouveau\.ko", name)] == []
    assert [name for name in names if name.endswith("modprobe.d/nvidia-driver.conf")]


def test_module_parameters_match_the_settings(host, expected, upstream, module):
    config = host.check_output("modprobe --showconfig").splitlines()
    wanted = dict(expected.variables["nvidia_driver_parameters"])
    if int(upstream.partition(".")[0]) >= COHERENT_FROM:
        wanted["NVreg_CoherentGPUMemoryMode"] = "driver"
    prefix = f"options {module.replace('-', '_')} "
    found = dict(line.removeprefix(prefix).split("=", 1) for line in config if line.startswith(prefix))
    assert found == {name: str(value) for name, value in wanted.items()}


def test_no_module_signing_key_remains(host):
    keys = "/var/lib/dkms/mok.key /var/lib/shim-signed/mok/MOK.priv"
    assert host.run(f"ls {keys}").stdout == ""


def test_build_folders_are_removed(host):
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
def test_nvidia_present_detects_devices(host, wanted, devices, code):
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
def test_gpus_run_the_pinned_driver(host, upstream):
    query = "driver_version,persistence_mode,ecc.mode.current"
    lines = host.check_output(f"nvidia-smi --query-gpu={query} --format=csv,noheader").splitlines()
    assert lines
    for line in lines:
        version, persistence, correction = (word.strip() for word in line.split(","))
        assert (version, persistence) == (upstream, "Enabled")
        assert correction in ("Enabled", "[N/A]")


@pytest.mark.needs("gpu")
def test_kernel_log_has_no_gpu_errors(host):
    assert host.run("dmesg | grep -E 'Xid.*: (48|64|79|95|119|120),'").stdout == ""
