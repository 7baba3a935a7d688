"""Download templates: values of placeholders, and selection of downloads by system and kind."""

import dataclasses

import pytest

from builder.downloads import downloads_of
from builder.errors import CatalogError
from builder.model import Component, Download, Stack, System

STACK = Stack(name="s", summary="", pins={"efa": "1.47.0", "cuda": "13.0", "nccl": "2.29.3-1"})
JAMMY = System(
    name="ubuntu-22.04",
    summary="",
    distribution="ubuntu",
    family="debian",
    release="22.04",
    codename="jammy",
    arches=("x86_64", "arm64"),
    python="3.10",
    image="ubuntu:22.04",
)
AL2023 = dataclasses.replace(
    JAMMY, name="al2023", distribution="amazon", family="redhat", release="2023", codename=""
)


def resolved(
    *downloads: Download,
    name: str = "nccl",
    system: System = JAMMY,
    kind: str = "ami",
    policy: str = "",
    arch: str = "x86_64",
) -> tuple[Download, ...]:
    component = Component(name=name, summary="", layer="l", pinned=True, downloads=downloads)
    return downloads_of(component, stack=STACK, system=system, kind=kind, policy=policy, arch=arch)


@pytest.mark.parametrize(
    ("template", "arch", "system", "expected"),
    [
        ("{version}", "x86_64", JAMMY, "2.29.3-1"),
        ("{version:upstream}", "x86_64", JAMMY, "2.29.3"),
        ("{version:major}.{version:minor}", "x86_64", JAMMY, "2.2.29"),
        ("toolkit-{cuda:dashed}", "x86_64", JAMMY, "toolkit-13-0"),
        ("{repo_os}/{repo_arch}", "arm64", JAMMY, "ubuntu2204/sbsa"),
        ("{repo_os}/{repo_arch}", "x86_64", AL2023, "amzn2023/x86_64"),
        ("{arch} {uname_arch} {deb_arch}", "arm64", JAMMY, "arm64 aarch64 arm64"),
        ("{arch} {uname_arch} {deb_arch}", "x86_64", JAMMY, "x86_64 x86_64 amd64"),
        ("{distribution}-{release}-{codename}", "x86_64", JAMMY, "ubuntu-22.04-jammy"),
        ("100%-{efa}", "x86_64", JAMMY, "100%-1.47.0"),
    ],
)
def test_url_placeholder_is_replaced_with_the_vendors_name(
    template: str, arch: str, system: System, expected: str
) -> None:
    (found,) = resolved(Download(name="a", url=f"https://v/{template}"), arch=arch, system=system)
    assert found.url == f"https://v/{expected}"


def test_placeholders_are_replaced_in_every_field() -> None:
    (found,) = resolved(
        Download(
            name="a", kind="git", url="{efa}", ref="v{version}", signature="{cuda}.sig", key="{arch}.key"
        )
    )
    assert (found.url, found.ref, found.signature, found.key) == (
        "1.47.0",
        "v2.29.3-1",
        "13.0.sig",
        "x86_64.key",
    )


def test_downloads_are_selected_by_system_and_kind() -> None:
    downloads = (
        Download(name="everywhere", url="a"),
        Download(name="family", url="b", systems=("debian",)),
        Download(name="distribution", url="c", systems=("amazon",)),
        Download(name="machine", url="d", kinds=("ami",)),
    )

    def names(system: System, kind: str) -> list[str]:
        return [download.name for download in resolved(*downloads, system=system, kind=kind)]

    assert names(JAMMY, "ami") == ["everywhere", "family", "machine"]
    assert names(JAMMY, "container") == ["everywhere", "family"]
    assert names(AL2023, "container") == ["everywhere", "distribution"]


def test_error_names_the_pin_that_the_stack_lacks() -> None:
    with pytest.raises(CatalogError) as caught:
        resolved(Download(name="source", url="https://v/{gdrcopy}"))
    assert (
        "components/nccl.toml: downloads 'source': stack 's' has no pin for placeholder 'gdrcopy'"
        in caught.value.details
    )
