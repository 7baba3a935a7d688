"""The source files that the Ansible module `repository` writes."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.test_http_stack import fetching_module

DNF: dict[str, Any] = {
    "manager": "dnf",
    "url": "https://vendor.example/repo/",
    "mirrors": {},
    "signed_lists": False,
}


@pytest.fixture
def repository_module(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "ansible.module_utils.fetching", fetching_module(root))
    plugins = root / "ansible" / "plugins"
    for name, path in (
        ("ansible.module_utils.patience", plugins / "module_utils" / "patience.py"),
        ("repository_module", plugins / "modules" / "repository.py"),
    ):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return module


def test_dnf_sees_pinned_versions_of_every_module_stream(repository_module: ModuleType) -> None:
    """NVIDIA's repository for Amazon Linux is modular; its default stream has only the newest driver."""
    given = DNF
    lines = repository_module.render(given, "factory-cuda", Path("/key"), building=True).splitlines()
    assert "module_hotfixes=1" in lines
    assert "gpgcheck=1" in lines
    kept = repository_module.render(given, "cuda", Path("/key"), building=False).splitlines()
    assert "module_hotfixes=1" not in kept, "the vendor's own default for users"


def test_dnf_trusts_the_certificates_of_the_site(
    repository_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    given = DNF
    lines = repository_module.render(given, "factory-cuda", Path("/key"), building=True).splitlines()
    assert lines[-3:] == ["module_hotfixes=1", "skip_if_unavailable=0", "sslcacert=/ca.pem"]


@pytest.mark.parametrize("building", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_dnf_requires_signed_package_lists_if_the_vendor_signs_lists(
    repository_module: ModuleType, signed: bool, building: bool
) -> None:
    given = DNF | {"signed_lists": signed}
    lines = repository_module.render(given, "cuda", Path("/key"), building=building).splitlines()
    assert f"repo_gpgcheck={int(signed)}" in lines
    assert "gpgcheck=1" in lines


@pytest.mark.parametrize(
    "message",
    [
        "Error: Failed to download metadata for repo 'cuda': GPG verification is enabled, but GPG signature"
        " is not available. This may be an error or the repository does not support GPG verification: Status"
        " code: 404",
        "Error: Failed to download metadata for repo 'cuda': repomd.xml GPG signature verification error:"
        " Bad GPG signature",
        "W: GPG error: https://v.example ./ InRelease: The following signatures were invalid: BADSIG 0123",
        "E: The repository 'https://vendor.example ./ InRelease' is not signed.",
    ],
)
def test_an_invalid_repository_signature_is_distinguished_from_a_network_error(
    repository_module: ModuleType, message: str
) -> None:
    assert repository_module.BAD_SIGNATURE.search(f"Reading lists\n{message}\n").group() == message
    assert not repository_module.BAD_SIGNATURE.search(
        "E: Failed to fetch https://vendor.example  404  Not Found"
    )
    assert not repository_module.BAD_SIGNATURE.search("Error: Failed to download metadata: Status code: 404")


def test_catalog_requires_signed_package_lists_of_nvidia_repositories(root: Path) -> None:
    for path in (root / "catalog/components").glob("*.toml"):
        for download in tomllib.loads(path.read_text(encoding="utf-8")).get("downloads", []):
            if "amazon" in download.get("systems", ()) and "nvidia" in download["url"].split("/")[2]:
                assert download.get("signed_lists", download.get("kind") != "repository"), download
