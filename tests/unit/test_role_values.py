"""Values that roles compute from versions, tested with package names of several Debian releases."""

from fnmatch import fnmatch

import pytest
import yaml

from tests.unit.test_upstream_defects import ROLES, evaluated, task_of


@pytest.mark.parametrize(
    ("kernel", "other", "headers"),
    [
        ("6.1.0-50-amd64", "6.1.0-49-amd64", "linux-headers-6.1.0-49-common"),
        ("6.12.118+deb13-amd64", "6.12.115+deb13.1-amd64", "linux-headers-6.12.115+deb13.1-common"),
    ],
)
def test_common_headers_packages_of_other_kernels_are_removed(kernel: str, other: str, headers: str) -> None:
    values = yaml.safe_load((ROLES / "kernel/vars/debian.yml").read_text(encoding="utf-8"))
    expression = values["kernel_others_packages"].strip().removeprefix("{{").removesuffix("}}")
    found = list(evaluated(expression, kernel_others=[other], target_kernel=kernel))
    assert headers in found
    assert f"linux-image-{other}" in found
    found = list(evaluated(expression, kernel_others=[kernel], target_kernel=kernel))
    assert [name for name in found if name.endswith("-common")] == []


@pytest.mark.parametrize(
    ("pin", "package"),
    [("11.8.0-5", "11.8.89~11.8.0-5~deb12u1"), ("12.4.1-2", "12.4.131~12.4.1-2")],
)
def test_cuda_pin_matches_the_version_of_debians_toolkit_package(pin: str, package: str) -> None:
    task = task_of(ROLES / "cuda/tasks/archive.yml", "Install the distribution's toolkit")
    assert fnmatch(package, task["vars"]["install_version"].replace("{{ cuda_version }}", pin))
