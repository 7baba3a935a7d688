"""What tests of several adapters need."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("capability absent: no openssl program to make a certificate with")
    path = tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*argv, "-keyout", str(path), "-out", str(tmp_path / "c")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    path.write_text(path.read_text() + (tmp_path / "c").read_text())
    return path
