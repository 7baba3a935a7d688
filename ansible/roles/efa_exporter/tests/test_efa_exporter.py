"""Checks of the EFA exporter: all counters of the driver, started only if there is a device."""

import pytest
from checks.exporters import is_enabled, problems, properties, scrape

PROGRAM = "/usr/local/bin/efa_exporter"
DEVICE = "/dev/infiniband/uverbs0"
# A sysfs tree with an EFA device, which has counters of the device and of its port, and a Mellanox device.
SYSFS = """
set -e
folder=$(mktemp -d)
efa=$folder/class/infiniband/rdmap0s6 other=$folder/class/infiniband/mlx5_0
mkdir -p $efa/device $efa/ports/1/hw_counters $efa/hw_counters $other/device $other/ports/1/hw_counters
mkdir -p $folder/drivers/efa $folder/drivers/mlx5_core
ln -s $folder/drivers/efa $efa/device/driver
ln -s $folder/drivers/mlx5_core $other/device/driver
echo 'say "EFA"' > $efa/board_id
echo 12 > $efa/hw_counters/submitted_cmds
echo 18446744073709551615 > $efa/ports/1/hw_counters/rx_bytes
echo 3 > $efa/ports/1/hw_counters/retrans_timeout_events
echo 7 > $efa/ports/1/hw_counters/counter_of_the_next_driver
echo 10 > $efa/ports/1/hw_counters/lifespan
echo broken > $efa/ports/1/hw_counters/rx_drops
echo 1 > $other/ports/1/hw_counters/rx_bytes
echo $folder
"""


@pytest.fixture(scope="module")
def sysfs(host):
    folder = host.check_output(SYSFS)
    yield folder
    host.check_output("rm -r %s", folder)


@pytest.fixture(scope="module")
def metrics(host, sysfs):
    text = host.check_output("%s --port 0 --once --sysfs %s", PROGRAM, sysfs)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in lines)


def test_every_counter_is_exported(metrics):
    port = '{device="rdmap0s6",port="1"}'
    assert metrics[f"node_amazonefa_rx_bytes{port}"] == "18446744073709551615"
    assert metrics[f"node_amazonefa_retrans_timeout_events{port}"] == "3"
    assert metrics[f"node_amazonefa_counter_of_the_next_driver{port}"] == "7"


def test_counters_of_the_device_are_exported(metrics):
    assert metrics['node_amazonefa_submitted_cmds{device="rdmap0s6"}'] == "12"


def test_unreadable_counters_are_counted(metrics):
    assert metrics['node_amazonefa_unreadable_counters{device="rdmap0s6",port="1"}'] == "1"
    assert metrics['node_amazonefa_unreadable_counters{device="rdmap0s6"}'] == "0"


def test_other_rdma_devices_are_ignored(metrics):
    assert not [name for name in metrics if "mlx5_0" in name]


def test_labels_are_escaped(metrics):
    assert [name for name in metrics if 'board_id="say \\"EFA\\""' in name]


def test_each_metric_has_one_type_line(host, sysfs):
    text = host.check_output("%s --port 0 --once --sysfs %s", PROGRAM, sysfs)
    types = [line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len({name for name, _ in types}) == len(types)
    assert ["node_amazonefa_lifespan", "gauge"] in types
    assert ["node_amazonefa_rx_bytes", "counter"] in types


def test_no_device_yields_no_metrics(host):
    assert host.check_output("%s --port 0 --once --sysfs /var/empty", PROGRAM) == ""


def test_program_ignores_pythonpath(host):
    # Python's option -I keeps PYTHONPATH and packages of users out of the service.
    assert host.file(PROGRAM).content_string.startswith("#!/usr/bin/python3 -I\n")


@pytest.mark.needs("has_systemd")
def test_service_is_started_only_by_the_path_unit(host, expected):
    assert is_enabled(host, "efa_exporter.service") == "disabled"
    wanted = "enabled" if expected.variables["efa_exporter_at_boot"] else "disabled"
    assert is_enabled(host, "efa_exporter.path") == wanted


@pytest.mark.needs("has_systemd")
def test_units_are_valid(host):
    assert problems(host, "efa_exporter.service", "efa_exporter.path") == ""


@pytest.fixture
def device(host):
    """Create a placeholder for the device file if the machine has no EFA device."""
    if host.run("ls /dev/infiniband/uverbs*").rc == 0:
        yield
        return
    host.check_output("systemctl start efa_exporter.path")
    host.check_output("mkdir -p /dev/infiniband && touch %s", DEVICE)
    yield
    host.check_output("systemctl stop efa_exporter.path efa_exporter.service")
    host.check_output("rm %s && rmdir /dev/infiniband", DEVICE)


@pytest.mark.needs("has_systemd")
def test_service_stays_inactive_without_a_device(host):
    if host.run("ls /dev/infiniband/uverbs*").rc != 0:
        host.check_output("systemctl start efa_exporter.service")
        state = properties(host, "efa_exporter.service", "ActiveState", "ConditionResult")
        assert state == {"ActiveState": "inactive", "ConditionResult": "no"}


@pytest.mark.needs("has_systemd")
@pytest.mark.usefixtures("device")
def test_new_device_starts_the_service(host, expected):
    text = scrape(host, expected.variables["efa_exporter_port"])
    assert "text/html" not in text
    assert properties(host, "efa_exporter.service", "ActiveState") == {"ActiveState": "active"}


@pytest.mark.needs("efa-device")
def test_exports_device_counters(host, expected):
    assert "node_amazonefa_rx_bytes{" in scrape(host, expected.variables["efa_exporter_port"])
