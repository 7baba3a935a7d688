"""Scripts are safe to run as root, and only loopback URLs count as this machine."""

import re
from pathlib import Path

import pytest

from builder.adapters.aws.account import Account


def test_script_ensure_engine_writes_its_log_where_only_root_can_write(root: Path) -> None:
    text = (root / "scripts" / "ensure-engine").read_text(encoding="utf-8")
    written = re.findall(r"^log=(\S+)", text, re.MULTILINE)
    assert written == ["/var/log/dockerd.log"]
    assert "/tmp" not in text
    assert "TMPDIR" not in text


def test_scripts_install_only_packages_with_hashes(root: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (root / "scripts").iterdir() if path.is_file()]
    commands = [line for text in texts for line in text.splitlines() if re.search(r"\bpip\"? install", line)]
    assert commands
    assert [command for command in commands if "--require-hashes" not in command] == []


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://[::1]:5000", True),
        ("https://ec2.127.0.0.1.example.com", False),
        ("https://127.0.0.1@example.com", False),
        ("http://127.example.com", False),
        ("https://localhost.example.com", False),
        ("", False),
    ],
)
def test_only_loopback_endpoint_urls_count_as_this_machine(url: str, *, is_local: bool) -> None:
    account = Account({"AWS_ENDPOINT_URL": url}, region="us-east-1")
    assert account.is_on_this_machine is is_local
