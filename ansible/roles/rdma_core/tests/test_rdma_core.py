"""User-space RDMA: one version, every library found, the EFA driver known to verbs."""

VERSION_QUERIES = {
    "debian": "dpkg-query --show --showformat '${Version}' %s",
    "redhat": "rpm --query --queryformat '%%{VERSION}-%%{RELEASE}' %s",
}


def test_exact_version(host, expected):
    query = VERSION_QUERIES[expected.capabilities["system_family"]]
    versions = {name: host.check_output(query, name) for name in expected.variables["rdma_core_packages"]}
    assert versions == dict.fromkeys(versions, expected.versions["rdma_core"])


def test_verbs_look_for_devices(host):
    # Without a device the list is empty, or the kernel part is missing; either way the program itself runs.
    run = host.run("ibv_devinfo --list")
    assert "HCA" in run.stdout or "Failed to get IB devices list" in run.stderr


def test_verbs_know_efa(host):
    assert "efa" in host.check_output("cat /etc/libibverbs.d/efa.driver").split()


def test_libraries_are_complete(host):
    libraries = host.check_output("ldconfig -p | awk '/lib(ibverbs|rdmacm|efa)[.]so/ {print $NF}'").split()
    assert len({library.rsplit("/", 1)[-1].split(".")[0] for library in libraries}) == 3
    for library in libraries:
        assert "not found" not in host.check_output("ldd %s", library)
