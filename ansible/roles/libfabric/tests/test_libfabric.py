"""Checks of libfabric: the pinned version, with the EFA provider and a working TCP provider."""

from checks import held, package_version


def test_packages_have_the_pinned_version(host, expected):
    versions = {name: package_version(host, name) for name in expected.variables["libfabric_packages"]}
    assert versions == dict.fromkeys(versions, expected.versions["libfabric"])


def test_packages_are_held(host, expected):
    assert [name for name in expected.variables["libfabric_packages"] if not held(host, name)] == []


def test_program_and_library_versions_match(host, expected):
    upstream = expected.versions["libfabric"].partition("-")[0]
    output = dict(line.split(": ", 1) for line in host.check_output("fi_info --version").splitlines())
    assert output["fi_info"] == output["libfabric"] == upstream


def test_efa_provider_is_compiled_in(host):
    # fi_info lists the EFA provider only if there is a device. A libfabric built without the provider does
    # not link to libefa.
    library = host.check_output("ldconfig -p | awk '/libfabric[.]so[.]1 / {print $NF}'").splitlines()[0]
    needed = [line.split() for line in host.check_output("ldd %s", library).splitlines()]
    assert [words[2] for words in needed if words[0].startswith("libefa.so") and words[2].startswith("/")]


def test_tcp_provider_works_on_loopback(host):
    run = host.run("FI_TCP_IFACE=lo fi_info --provider tcp --ep_type FI_EP_MSG")
    assert run.rc == 0
    assert "provider: tcp" in run.stdout


def test_no_provider_is_forced(host):
    assert host.run("bash -lc 'env | grep -E ^FI_PROVIDER='").rc == 1
