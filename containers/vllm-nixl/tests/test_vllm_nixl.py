"""Checks of the image vllm-nixl: programs, locked versions of libraries, and NIXL's plugin for libfabric."""

import pytest
from checks import distributions

PYTHON = "/opt/venv/bin/python"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp"


def test_programs_print_their_options(host):
    assert "--role" in host.check_output(f"{AS_NOBODY} {PYTHON} /opt/workload/serve.py --help")
    assert "--prefill" in host.check_output(f"{AS_NOBODY} {PYTHON} /opt/workload/route.py --help")


def test_libraries_have_the_locked_versions(host, expected):
    found = distributions(host, PYTHON)
    names = ("vllm", "nixl-cu13", "torch")
    assert {name: found[name].partition("+")[0] for name in names} == {
        name: expected.versions[name].partition("+")[0] for name in names
    }


def test_nixl_has_a_plugin_for_libfabric(host):
    found = host.check_output("find /opt/venv -name 'libplugin_LIBFABRIC.so'").split()
    assert len(found) == 1


@pytest.mark.needs("gpu")
def test_vllm_finds_the_gpu(host):
    assert host.run(f"{PYTHON} -c 'import vllm, torch; assert torch.cuda.is_available()'").rc == 0
