"""Check that all RDMA libraries have the pinned version and that the EFA driver is among them."""

from checks import held, package_version


def test_packages_have_the_pinned_version(host, expected):
    versions = {name: package_version(host, name) for name in expected.variables["rdma_core_packages"]}
    assert versions == dict.fromkeys(versions, expected.versions["rdma_core"])


def test_packages_are_held(host, expected):
    assert [name for name in expected.variables["rdma_core_packages"] if not held(host, name)] == []


def test_ibv_devinfo_runs(host):
    # Without a device the list is empty or the kernel module is missing. The program then exits with 255,
    # which over SSH would look like a broken connection.
    run = host.run("ibv_devinfo --list || exit 1")
    assert "HCA" in run.stdout or "Failed to get IB devices list" in run.stderr


def test_efa_driver_is_registered(host):
    assert "efa" in host.check_output("cat /etc/libibverbs.d/efa.driver").split()


def test_libraries_find_their_dependencies(host):
    libraries = host.check_output("ldconfig -p | awk '/lib(ibverbs|rdmacm|efa)[.]so/ {print $NF}'").split()
    assert len({library.rsplit("/", 1)[-1].split(".")[0] for library in libraries}) == 3
    for library in libraries:
        assert "not found" not in host.check_output("ldd %s", library)
