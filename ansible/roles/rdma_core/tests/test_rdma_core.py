"""User-space RDMA: one version, every library found, the EFA driver known to verbs."""

from checks import held, package_version


def test_exact_version(host, expected):
    versions = {name: package_version(host, name) for name in expected.variables["rdma_core_packages"]}
    assert versions == dict.fromkeys(versions, expected.versions["rdma_core"])


def test_upgrades_leave_it_alone(host, expected):
    assert [name for name in expected.variables["rdma_core_packages"] if not held(host, name)] == []


def test_verbs_look_for_devices(host):
    # Without a device the list is empty, or the kernel part is missing; either way the program itself runs.
    # Over SSH its own code, 255, would be taken for a connection that broke.
    run = host.run("ibv_devinfo --list || exit 1")
    assert "HCA" in run.stdout or "Failed to get IB devices list" in run.stderr


def test_verbs_know_efa(host):
    assert "efa" in host.check_output("cat /etc/libibverbs.d/efa.driver").split()


def test_libraries_are_complete(host):
    libraries = host.check_output("ldconfig -p | awk '/lib(ibverbs|rdmacm|efa)[.]so/ {print $NF}'").split()
    assert len({library.rsplit("/", 1)[-1].split(".")[0] for library in libraries}) == 3
    for library in libraries:
        assert "not found" not in host.check_output("ldd %s", library)
