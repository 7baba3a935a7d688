"""The Ansible modules `download` and `checkout`: verification, signatures, retries."""

import http.server
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.standins.site import Site, serve
from tests.support.stub_server import dripping
from tests.unit.test_http_stack import fetching_module

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
FETCHING = fetching_module(ANSIBLE.parent)
URL = "https://vendor.example/tool-1.tar.gz"
KEY = "https://vendor.example/key.pub"
REPOSITORY = "https://code.example/tool.git"


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("s"), {}) as site:
        yield site


@dataclass
class Result:
    """Result of a module: whether it failed, and its fields."""

    failed: bool
    fields: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.fields.get("msg", ""))


def call(module: str, **arguments: Any) -> Result:
    """Run a module through Ansible on this machine."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    program = str(Path(sys.executable).with_name("ansible"))
    argv = [
        program,
        "localhost",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-m",
        module,
        "-a",
        json.dumps(arguments),
    ]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    head, _, body = done.stdout.partition(" => ")
    assert body, done.stdout + done.stderr
    return Result(failed="FAILED" in head, fields=json.loads(body))


def sum_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def archive(site: Site, url: str = URL) -> dict[str, str]:
    path = site.url_file(url)
    if not path.exists():
        site.tar(url, {"tool/install.sh": "#!/bin/sh\n"})
    return {"url": url, "sha256": sum_of(path)}


def test_downloads_a_locked_file_through_the_mirror_once(site: Site, tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "tool.tgz"
    arguments = {**archive(site), "dest": str(dest), "mode": "0755", "mirrors": site.mirrors}
    first, second = call("download", **arguments), call("download", **arguments)
    assert first.fields["changed"] is True
    assert first.fields["fetched_from"].startswith("http://127.0.0.1:")
    assert second.fields["changed"] is False
    assert dest.read_bytes() == site.url_file(URL).read_bytes()
    assert dest.stat().st_mode & 0o777 == 0o755
    assert site.requests == ["/vendor.example/tool-1.tar.gz"]


def test_refuses_a_file_with_another_digest(site: Site, tmp_path: Path) -> None:
    wanted = archive(site)
    site.url_file(URL).write_bytes(b"something else")
    dest = tmp_path / "tool.tgz"
    result = call("download", **wanted, dest=str(dest), mirrors=site.mirrors)
    assert result.failed
    assert f"does not match its lock: expected sha256 {wanted['sha256']}, got " in result.message
    assert result.fields["url"] == URL
    assert result.fields["expected"] == wanted["sha256"]
    assert result.fields["actual"] == sum_of(site.url_file(URL))
    assert list(tmp_path.iterdir()) == []


def test_stops_a_download_at_the_locked_size(tmp_path: Path) -> None:
    with dripping(b"HTTP/1.1 200 OK\r\n\r\n", each=bytes(1 << 16)) as host:
        result = call(
            "download", url=f"http://{host}/a", sha256="0" * 64, size=1 << 20, dest=str(tmp_path / "a")
        )
    assert result.failed
    assert f"is larger than the locked {1 << 20} bytes" in result.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Long: "])
def test_a_slow_download_hits_the_time_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: bytes
) -> None:
    monkeypatch.setattr(FETCHING, "LONGEST_S", 1)
    with dripping(start) as host, pytest.raises(FETCHING.FetchError, match="did not end within 1 s"):
        FETCHING.fetch(f"http://{host}/a", "0" * 64, tmp_path / "a", {})
    assert list(tmp_path.iterdir()) == []


def test_keeps_the_old_file_until_the_locked_file_is_verified(site: Site, tmp_path: Path) -> None:
    wanted = archive(site)
    dest = tmp_path / "tool.tgz"
    dest.write_bytes(b"old")
    site.faults["/vendor.example/tool-1.tar.gz"] = (404, 1)
    assert call("download", **wanted, dest=str(dest), mirrors=site.mirrors).failed
    assert dest.read_bytes() == b"old"
    assert call("download", **wanted, dest=str(dest), mirrors=site.mirrors).fields["changed"] is True
    assert sum_of(dest) == wanted["sha256"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lengths of the pauses between retries in seconds; the fixture skips the pauses."""
    waited: list[float] = []
    event = SimpleNamespace(wait=waited.append)
    monkeypatch.setattr(FETCHING, "threading", SimpleNamespace(Event=lambda: event))
    return waited


@pytest.mark.parametrize(
    ("status", "expected"), [(503, [1, 4]), (429, [1, 4]), (404, []), (403, [])], ids=str
)
def test_retries_only_transient_statuses(
    site: Site, tmp_path: Path, pauses: list[float], status: int, expected: list[float]
) -> None:
    wanted = archive(site)
    site.faults["/vendor.example/tool-1.tar.gz"] = (status, 9)
    with pytest.raises(FETCHING.FetchError, match=f"the server answered {status}"):
        FETCHING.fetch(wanted["url"], wanted["sha256"], tmp_path / "x", site.mirrors)
    assert len(site.requests) == 1 + len(expected)
    assert pauses == expected


def test_succeeds_after_one_transient_failure(site: Site, tmp_path: Path) -> None:
    wanted = archive(site)
    site.faults["/vendor.example/tool-1.tar.gz"] = (503, 1)
    assert not call("download", **wanted, dest=str(tmp_path / "x"), mirrors=site.mirrors).failed


@pytest.mark.usefixtures("pauses")
def test_names_the_url_of_an_unreachable_server(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/tool.tgz"
    with pytest.raises(FETCHING.FetchError, match=rf"^{url}: no answer: .*\(3 tries\)"):
        FETCHING.fetch(url, "0" * 64, tmp_path / "x", {})


class TruncatingHandler(http.server.BaseHTTPRequestHandler):
    """Handler that announces more bytes than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", self.server.announced)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def truncating_server(announced: int) -> Iterator[str]:
    with socketserver.TCPServer(("127.0.0.1", 0), TruncatingHandler) as server:
        server.announced = str(announced)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/file"
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("pauses")
def test_leaves_no_file_if_the_connection_breaks(tmp_path: Path) -> None:
    broken = pytest.raises(FETCHING.FetchError, match="the connection broke after 10 of 1000 bytes")
    with truncating_server(announced=1000) as url, broken:
        FETCHING.fetch(url, "0" * 64, tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_file_larger_than_the_free_disk_space(tmp_path: Path) -> None:
    with truncating_server(announced=1 << 60) as url:
        result = call("download", url=url, sha256="0" * 64, dest=str(tmp_path / "x"))
    assert result.failed
    assert f"has {1 << 60} bytes, but the disk has only " in result.message


def signed(site: Site, *, armored_key: bool = True) -> dict[str, Any]:
    wanted = archive(site)
    site.sign(site.url_file(URL))
    site.key(KEY, armored=armored_key)
    return {
        **wanted,
        "signature": {"url": f"{URL}.sig", "sha256": sum_of(site.url_file(f"{URL}.sig"))},
        "key": {"url": KEY, "sha256": sum_of(site.url_file(KEY))},
        "mirrors": site.mirrors,
    }


@pytest.mark.parametrize("armored", [True, False])
def test_accepts_a_signature_by_the_vendors_key(site: Site, tmp_path: Path, armored: bool) -> None:
    result = call("download", **signed(site, armored_key=armored), dest=str(tmp_path / "x"))
    assert not result.failed, result.message
    assert sum_of(tmp_path / "x") == archive(site)["sha256"]


# Programs that Ansible and its modules start; gpgv is not among them.
_PROGRAMS = ("bash", "chmod", "env", "gpg", "id", "mkdir", "rm", "sh", "sleep")


@pytest.mark.parametrize("same_file", [True, False])
def test_verifies_with_gpg_where_gpgv_is_missing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_file: bool
) -> None:
    """Amazon Linux 2023 is such a system: its package gnupg2-minimal has no gpgv."""
    arguments = signed(site)
    if not same_file:
        site.write("https://vendor.example/other", b"other")
        site.sign(site.url_file("https://vendor.example/other"))
        other = "https://vendor.example/other.sig"
        arguments["signature"] = {"url": other, "sha256": sum_of(site.url_file(other))}
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in _PROGRAMS:
        (folder / name).symlink_to(str(shutil.which(name)))
    with monkeypatch.context() as without_gpgv:  # the end of `site` needs the full path again
        without_gpgv.setenv("PATH", str(folder))
        result = call("download", **arguments, dest=str(tmp_path / "x"))
    assert result.failed is not same_file, result.message
    assert (tmp_path / "x").exists() is same_file
    if not same_file:
        assert f"does not match its lock: expected a signature by {KEY}, got: gpg: " in result.message


def test_refuses_a_signature_of_another_file(site: Site, tmp_path: Path) -> None:
    arguments = signed(site)
    site.write("https://vendor.example/other", b"other")
    site.sign(site.url_file("https://vendor.example/other"))
    other = "https://vendor.example/other.sig"
    arguments["signature"] = {"url": other, "sha256": sum_of(site.url_file(other))}
    result = call("download", **arguments, dest=str(tmp_path / "x"))
    assert result.failed
    assert f"does not match its lock: expected a signature by {KEY}, got: " in result.message
    assert {"url", "expected", "actual"} <= result.fields.keys()
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_signature_by_another_key(
    site: Site, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = signed(site)
    with serve(tmp_path_factory.mktemp("t"), {}) as other:
        other.key(KEY)
        site.url_file(KEY).write_bytes(other.url_file(KEY).read_bytes())
    arguments["key"] = {"url": KEY, "sha256": sum_of(site.url_file(KEY))}
    result = call("download", **arguments, dest=str(tmp_path / "x"))
    assert result.failed
    assert "No public key" in result.fields["actual"]


def test_refuses_a_key_with_another_digest(site: Site, tmp_path: Path) -> None:
    arguments = signed(site)
    arguments["key"]["sha256"] = "0" * 64
    result = call("download", **arguments, dest=str(tmp_path / "x"))
    assert result.failed
    assert result.message.startswith(f"{KEY} does not match its lock: ")
    assert list(tmp_path.iterdir()) == []


def test_checks_out_the_locked_commit_even_if_the_tag_has_moved(site: Site, tmp_path: Path) -> None:
    commit = site.git(REPOSITORY, "v1", {"src/tool.c": "int main(void) { return 0; }\n"})
    site.git(REPOSITORY, "v1", {"src/tool.c": "int main(void) { return 1; }\n"})
    dest = tmp_path / "tool"
    arguments = {"url": REPOSITORY, "ref": "v1", "commit": commit, "dest": str(dest), "mirrors": site.mirrors}
    result = call("checkout", **arguments)
    assert not result.failed, result.message
    assert (dest / "src/tool.c").read_text() == "int main(void) { return 0; }\n"


def test_refuses_a_commit_that_does_not_exist(site: Site, tmp_path: Path) -> None:
    actual = site.git(REPOSITORY, "v1", {"README": "tool\n"})
    dest = tmp_path / "tool"
    arguments = {"url": REPOSITORY, "ref": "v1", "commit": "0" * 40, "dest": str(dest)}
    result = call("checkout", **arguments, mirrors=site.mirrors)
    assert result.failed
    assert (
        f"{REPOSITORY} v1 does not match its lock: expected commit {'0' * 40}, got {actual}" in result.message
    )
    assert {"url", "expected", "actual"} <= result.fields.keys()
    assert not dest.exists()


def test_checks_out_from_a_plain_web_server(site: Site, tmp_path: Path) -> None:
    commit = site.git(REPOSITORY, "v1", {"README": "tool\n"})
    bare = site.url_file(REPOSITORY)
    subprocess.run(["git", "-C", str(bare), "update-server-info"], check=True)
    plain = bare.rename(bare.with_name("plain"))
    arguments = {"url": f"https://code.example/{plain.name}", "ref": "v1", "commit": commit}
    result = call("checkout", **arguments, dest=str(tmp_path / "tool"), mirrors=site.mirrors)
    assert not result.failed, result.message
    assert (tmp_path / "tool/README").read_text() == "tool\n"
