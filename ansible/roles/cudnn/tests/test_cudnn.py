"""Checks of cuDNN: the pinned version, built for the image's CUDA, found by loader and compiler."""

import json
import re

import pytest
from checks import held, package_version

HEADER = "echo '#include <cudnn_version.h>' | g++ -E -dM -I/usr/local/cuda/include -x c++ -"


@pytest.fixture
def library(host, expected):
    """Return the name of the library package."""
    toolkit = json.loads(host.file("/usr/local/cuda/version.json").content_string)["cuda"]["version"]
    major = expected.versions["cudnn"].partition(".")[0]
    return f"libcudnn{major}-cuda-{toolkit.partition('.')[0]}"


def test_package_has_the_pinned_version(host, expected, library):
    assert package_version(host, library).partition("-")[0] == expected.versions["cudnn"]


def test_packages_are_held(host, library):
    assert held(host, library)
    assert [
        name
        for name in (f"{library.replace('-cuda', kind + '-cuda')}" for kind in ("-headers",))
        if not held(host, name)
    ] == []


def test_header_has_the_pinned_version(host, expected):
    macros = dict(re.findall(r"#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) (\d+)", host.check_output(HEADER)))
    wanted = expected.versions["cudnn"].split(".")
    assert [macros[name] for name in ("MAJOR", "MINOR", "PATCHLEVEL")] == wanted[:3]


def test_loader_finds_the_library(host, expected):
    major = expected.versions["cudnn"].partition(".")[0]
    path = host.check_output(f"ldconfig -p | awk '/libcudnn[.]so[.]{major} / {{print $NF}}'").splitlines()[0]
    assert "not found" not in host.check_output("ldd %s", path)
