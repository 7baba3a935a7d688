"""Architecture names; no module except `builder.arch` contains them."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder import arch

ROOT = Path(__file__).resolve().parents[2]
# Names of architectures that only some vendors use.
FOREIGN = re.compile(r"\"(?:amd64|aarch64|sbsa)\"|manylinux_?\d")


@pytest.mark.parametrize(
    ("word", "name"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64"), ("riscv64", None)],
)
def test_find_accepts_the_names_of_linux_debian_and_oci(word: str, name: str | None) -> None:
    found = arch.find(word)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("word", "name"), [("x86_64", "x86_64"), ("aarch64", "arm64"), ("ppc64le", "ppc64le")]
)
def test_host_architecture_has_its_catalog_name_or_else_its_own_name(
    monkeypatch: pytest.MonkeyPatch, word: str, name: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=word))
    assert arch.of_this_machine() == name


def test_wheel_platforms_use_the_linux_name() -> None:
    platforms = arch.ARCHES["arm64"].wheel_platforms
    assert platforms[:2] == ("manylinux2014_aarch64", "manylinux_2_17_aarch64")
    assert "manylinux_2_31_aarch64" in platforms
    # Amazon Linux 2023 has glibc 2.34.
    assert platforms[-1] == "manylinux_2_34_aarch64"


def test_no_other_module_contains_architecture_names() -> None:
    modules = [path for top in ("builder", "bench") for path in (ROOT / top).rglob("*.py")]
    own = [path for path in modules if FOREIGN.search(path.read_text(encoding="utf-8"))]
    assert own == [ROOT / "builder" / "arch.py"]
