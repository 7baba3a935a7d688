"""Packages that scripts/ensure-engine installs for commands that this machine lacks."""

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

# Records the packages to install. Only `some-package` is in the distribution.
PROGRAMS = {
    "mmdebstrap": "",
    "dockerd": "",
    "sudo": 'exec "$@"',
    "apt-cache": '[ "$2" = some-package ]',
    "apt-get": 'if [ "$1" = install ]; then shift 4; echo "$@" >"$INSTALLED"; fi',
}


class Engine(BaseHTTPRequestHandler):
    """Answers every request like an engine that runs."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("needs", "installed"),
    [
        (["no-such-command?:some-package"], "some-package\n"),
        (["no-such-command?:other-package"], ""),
        (["no-such-command?:other-package", "no-such-command:required"], "required\n"),
        (["sh?:some-package", "sh:required"], ""),
    ],
)
def test_optional_packages_are_installed_if_the_distribution_has_them(
    root: Path, tmp_path: Path, needs: list[str], installed: str
) -> None:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    record = tmp_path / "installed"
    record.touch()
    with HTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            subprocess.run(
                [root / "scripts/ensure-engine", *needs],
                env=os.environ
                | {
                    "PATH": f"{tmp_path}:{os.environ['PATH']}",
                    "DOCKER_HOST": f"tcp://127.0.0.1:{server.server_port}",
                    "INSTALLED": str(record),
                },
                check=True,
                timeout=60,
            )
        finally:
            server.shutdown()
            thread.join()
    assert record.read_text() == installed
