"""Checks of the kernel settings: written once, not overridden, supported by the kernel."""

import pytest
from checks import module_info

SETTINGS = "/etc/sysctl.d/90-image.conf"
MODULES = "/etc/modules-load.d/90-image.conf"
STATES = "/etc/tmpfiles.d/90-image.conf"


def read_lines(text):
    """Return the lines that are not empty and not comments."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and line[0] not in "#;"]


def read_settings(text):
    """Return (name, value) of every setting, in order."""
    pairs = (line.partition("=")[::2] for line in read_lines(text))
    return [(name.strip().lstrip("-").replace("/", "."), value.strip()) for name, value in pairs]


@pytest.fixture(scope="module")
def written(host):
    return read_settings(host.file(SETTINGS).content_string)


def wanted_of(expected):
    variables = expected.variables
    found = {name: str(value) for name, value in variables["sysctl_settings"].items()}
    found["net.ipv4.tcp_congestion_control"] = variables["sysctl_congestion_control"]
    found["net.core.default_qdisc"] = variables["sysctl_queueing"]
    if variables["sysctl_hugepages"]:
        found["vm.nr_hugepages"] = str(variables["sysctl_hugepages"])
    return found


def test_each_setting_is_written_once(written, expected):
    assert len(dict(written)) == len(written)
    assert dict(written) == wanted_of(expected)


def test_no_later_file_overrides_a_setting(host, expected):
    # systemd-analyze cat-config prints the files of all folders in the order in which they are read at boot.
    in_force = dict(read_settings(host.check_output("systemd-analyze cat-config sysctl.d")))
    wanted = wanted_of(expected)
    assert {name: in_force.get(name) for name in wanted} == wanted


def test_tcp_timestamps_are_on(host):
    in_force = dict(read_settings(host.check_output("systemd-analyze cat-config sysctl.d")))
    assert in_force.get("net.ipv4.tcp_timestamps", "1") != "0"


def test_ip_forwarding_is_not_enabled(written):
    # Container engines and cluster networks enable IP forwarding if they need it.
    assert [name for name, _ in written if name.endswith((".ip_forward", ".forwarding"))] == []


def test_socket_buffers_fit_the_largest_window(written):
    found = dict(written)
    for way in ("rmem", "wmem"):
        smallest, usual, largest = map(int, found[f"net.ipv4.tcp_{way}"].split())
        assert smallest <= usual <= largest <= int(found[f"net.core.{way}_max"])


def test_neighbour_thresholds_increase(written):
    found = dict(written)
    steps = [int(found[f"net.ipv4.neigh.default.gc_thresh{step}"]) for step in (1, 2, 3)]
    assert steps == sorted(set(steps))


def test_modules_are_loaded_before_the_settings(host, written):
    found = dict(written)
    loaded = read_lines(host.file(MODULES).content_string)
    assert f"tcp_{found['net.ipv4.tcp_congestion_control']}" in loaded
    assert f"sch_{found['net.core.default_qdisc']}" in loaded
    after = host.check_output("systemctl show --property After --value systemd-sysctl.service")
    assert "systemd-modules-load.service" in after.split() or not host.file("/run/systemd/system").exists


def test_all_installed_kernels_have_the_loaded_modules(host):
    loaded = read_lines(host.file(MODULES).content_string)
    kernels = host.run("ls /lib/modules").stdout.split()
    lacking = [(kernel, name) for kernel in kernels for name in loaded if not module_info(host, kernel, name)]
    assert lacking == []


def test_tmpfiles_settings_are_valid(host):
    # No entry starts with /nowhere, so systemd-tmpfiles only parses the file.
    run = host.run("systemd-tmpfiles --create --prefix=/nowhere %s", STATES)
    assert (run.rc, run.stderr) == (0, "")


def test_tmpfiles_ignore_missing_files(host):
    kinds = {line.split()[0] for line in read_lines(host.file(STATES).content_string)}
    assert kinds == {"w-"}


@pytest.mark.needs("kernel")
def test_kernel_has_the_settings(host, expected):
    for name, value in wanted_of(expected).items():
        assert host.check_output("sysctl -n %s", name).split() == value.split(), name


@pytest.mark.needs("kernel")
def test_congestion_control_is_available(host, expected):
    known = host.check_output("sysctl -n net.ipv4.tcp_available_congestion_control").split()
    assert expected.variables["sysctl_congestion_control"] in known


@pytest.mark.needs("kernel")
def test_transparent_hugepages_match_the_setting(host, expected):
    state = host.file("/sys/kernel/mm/transparent_hugepage/enabled").content_string
    assert f"[{expected.variables['sysctl_transparent_hugepages']}]" in state
