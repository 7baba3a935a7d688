"""The builder reads pip's configuration files and variables exactly as pip does."""

import os
import re
from pathlib import Path

import pytest
from pip._internal.configuration import Configuration

from builder.adapters.upstream.pip_settings import read_settings
from builder.errors import MissingError

FILES = {
    "xdg/pip/pip.conf": "[global]\nindex-url = https://system.example/\ntimeout = 5\ncert = /a.pem\n",
    "home/.pip/pip.conf": "[global]\nindex_url: https://legacy.example/simple\nfind-links = /legacy\n",
    "home/.config/pip/pip.conf": (
        "[global]\nextra-index-url =\n    https://a.example/%40/simple\n    https://b.example/simple\n"
        "[install]\nTIMEOUT = 7\n[list]\nindex-url = https://not.example/\n"
    ),
    "named.conf": "[global]\nindex-url = https://named.example/simple\n",
}
SELECTED = ("index-url", "extra-index-url", "find-links", "timeout", "cert")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("PIP_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{tmp_path / 'xdg'}:{tmp_path / 'none'}")
    return tmp_path


def listed() -> dict[str, str]:
    """Return the settings that `pip config list` prints; `install` settings override `global` settings."""
    configuration = Configuration(isolated=False)
    configuration.load()
    pairs = dict(configuration.items())
    found = {}
    for section in ("global.", "install.", ":env:."):
        found |= {
            name.removeprefix(section): text for name, text in pairs.items() if name.startswith(section)
        }
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "PIP_INDEX_URL": "https://variable.example/simple",
            "PIP_FIND_LINKS": "/a /b",
            "XDG_CONFIG_HOME": "/x",
        },
        {"PIP_CONFIG_FILE": "named.conf"},
        {"PIP_CONFIG_FILE": "absent.conf"},
        {"PIP_CONFIG_FILE": os.devnull, "PIP_CERT": "/c.pem"},
    ],
)
def test_pip_settings_equal_those_that_pip_lists(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(home / value) if value.endswith(".conf") else value)
    found, expected = read_settings(), listed()
    assert {name: found.get(name) for name in SELECTED} == {name: expected.get(name) for name in SELECTED}


@pytest.mark.parametrize("content", [b"no section\n", b"[global]\nindex-url = \xff\n"])
def test_error_names_a_configuration_file_that_pip_refuses(home: Path, content: bytes) -> None:
    path = home / "home/.config/pip/pip.conf"
    path.write_bytes(content)
    with pytest.raises(MissingError, match=re.escape(f"pip's configuration {home}")):
        read_settings({"HOME": str(home / "home")})
