"""`builder config` prints the effective site settings and the origin of each value."""

from pathlib import Path

import pytest

from builder.cli import config
from builder.site import SECTIONS
from tests.support.output import result_of
from tests.support.repository import Repository

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def site(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.delenv("BUILDER_SITE_FILE", raising=False)
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@host.example/simple")
    repository.write(
        "site.toml",
        """
        [mirror]
        apt = "http://mirror.example/debian"
        ca_bundle = "/nonexistent"
        prefixes = { "https://a.example/" = "https://b.example/" }
        [aws]
        encrypt = true
        public_address = false
        """,
    )
    return repository


def test_names_the_origin_of_every_value(site: Repository, capsys: Capture) -> None:
    assert config.run(["--root", str(site.root), "--json"]) == 0
    output = capsys.readouterr().out
    found = result_of(output)
    file = f"{site.root}/site.toml"
    assert found["mirror.apt"] == {"value": "http://mirror.example/debian", "origin": file}
    assert found["mirror.apt_security"] == {
        "value": "http://mirror.example/debian-security",
        "origin": "mirror.apt",
    }
    assert found["mirror.ca_bundle"] == {"value": "/nonexistent", "origin": file}
    assert found["mirror.no_proxy"]["origin"] == "environment variable no_proxy"
    assert found["mirror.pip_index"]["origin"] == "environment variable PIP_INDEX_URL"
    assert found["home"]["origin"] == "environment variable BUILDER_HOME"
    assert found["aws.encrypt"] == {"value": True, "origin": file}
    assert found["aws.public_address"] == {"value": False, "origin": file}
    assert found["aws.region"] == {"value": "us-east-1", "origin": "default"}
    assert "secret" not in output
    keys = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.__dataclass_fields__}
    assert keys <= set(found)


def test_prints_a_row_for_each_value(site: Repository, capsys: Capture) -> None:
    assert config.run(["--root", str(site.root)]) == 0
    output = capsys.readouterr().out
    assert "https://b.example/" in output
    assert "secret" not in output
