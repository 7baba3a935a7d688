"""The source files that the Ansible module `repository` writes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.test_http_stack import fetching_module


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
    given: dict[str, Any] = {"manager": "dnf", "url": "https://vendor.example/repo/", "mirrors": {}}
    lines = repository_module.render(given, "factory-cuda", Path("/key"), building=True).splitlines()
    assert "module_hotfixes=1" in lines
    assert "gpgcheck=1" in lines
    kept = repository_module.render(given, "cuda", Path("/key"), building=False).splitlines()
    assert "module_hotfixes=1" not in kept, "the vendor's own default for users"


def test_dnf_trusts_the_certificates_of_the_site(
    repository_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    given: dict[str, Any] = {"manager": "dnf", "url": "https://vendor.example/repo/", "mirrors": {}}
    lines = repository_module.render(given, "factory-cuda", Path("/key"), building=True).splitlines()
    assert lines[-2:] == ["module_hotfixes=1", "sslcacert=/ca.pem"]
