"""Passwords of proxies and indexes are in no command line, log, message or file that other users can read."""

import base64
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ansible import playbook
from builder.adapters.container import bootstrap
from builder.adapters.host import process
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.adapters.upstream.mirror import Mirror
from builder.adapters.upstream.resolver import SourceResolver
from builder.errors import BuildError, MissingError
from builder.events import Event, Stream
from builder.model import Layer
from builder.site import MirrorSettings
from tests.support.repository import Repository, tiny_system

PASSWORD = "s3cret-of-the-proxy"
SYSTEM = tiny_system("bookworm", "apt")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "build") as opened:
        yield opened


class Recorder(ThreadingHTTPServer):
    """Proxy that refuses every request and records it with the command lines of all processes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RecorderHandler)
        self.requests: list[tuple[str, str]] = []
        self.commands: set[bytes] = set()


class RecorderHandler(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        login = self.headers.get("Proxy-Authorization") or self.headers.get("Authorization", "")
        self.server.requests.append((self.path, login))
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.server.commands.add(path.read_bytes())
            except OSError:
                continue
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Log nothing."""


@pytest.fixture
def proxy() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_bootstrap_passes_no_password_in_a_command_line(run: Run, proxy: Recorder) -> None:
    mirror = Mirror(
        apt_sources=(f"deb http://me:{PASSWORD}@archive.invalid/debian bookworm main",),
        proxies={"http_proxy": f"http://me:{PASSWORD}@127.0.0.1:{proxy.server_address[1]}"},
    )
    said: list[str] = []
    with pytest.raises(BuildError) as failure:
        bootstrap.make_root(run, SYSTEM, mirror, say=said.append)
    assert proxy.requests, said
    (path, login), *_ = proxy.requests
    assert path.endswith("archive.invalid/debian/dists/bookworm/InRelease")
    assert base64.b64decode(login.removeprefix("Basic ")).decode() == f"me:{PASSWORD}"
    commands = b"\n".join(proxy.commands)
    assert b"mmdebstrap" in commands
    assert PASSWORD.encode() not in commands
    error: Any = failure.value
    assert PASSWORD not in "\n".join([*said, error.message, error.hint, error.details])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:{}@proxy:3128", "http://***@proxy:3128"),
        ("HTTPS://{}@index.invalid/simple and more", "HTTPS://***@index.invalid/simple and more"),
        ("'http://me:{}@a@b/x'", "'http://***@b/x'"),
        ("a http://one/x@y, socks5h://u:{}@two", "a http://one/x@y, socks5h://***@two"),
        ("git@host:path, ssh://git@host, me@example.com", "git@host:path, ssh://git@host, me@example.com"),
    ],
)
def test_errors_and_events_show_no_password(text: str, shown: str) -> None:
    text = text.format(PASSWORD)
    error = BuildError(text, hint=text, details=text)
    assert {error.message, error.hint, error.details, str(error)} == {shown}
    seen: list[Event] = []
    Stream(seen.append).emit("note", text=text, reason=text, count=1)
    assert [(event.text, event.fields) for event in seen] == [(shown, {"reason": shown, "count": 1})]


def test_git_gets_the_password_of_a_mirror_in_no_command_line(
    proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    prefix = f"http://me:{PASSWORD}@127.0.0.1:{proxy.server_port}/"
    mirror = Mirror(settings=MirrorSettings(prefixes={"https://code.example/": prefix}))
    no_image: Any = None
    resolver = SourceResolver(
        root=Path(),
        mirror=mirror,
        systems={},
        wheels=lambda _: (),
        images=no_image,
        cancelled=threading.Event(),
    )
    with pytest.raises(MissingError) as caught:
        resolver._ls_remote(mirror.settings.rewrite("https://code.example/a.git"), "main")
    login = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
    assert ("/a.git/info/refs?service=git-upload-pack", login) in proxy.requests
    assert any(b"git-remote-http" in command for command in proxy.commands)
    assert not any(PASSWORD.encode() in command for command in proxy.commands)
    assert PASSWORD not in str(caught.value.message)


def test_a_timeout_shows_no_password() -> None:
    with pytest.raises(BuildError, match="timed out") as failure:
        process.run(["sh", "-c", "sleep 600", f"http://me:{PASSWORD}@proxy"], timeout_s=0.1)
    assert PASSWORD not in failure.value.message


def test_only_the_user_can_read_the_settings_of_a_play(
    run: Run, tmp_path: Path, repository: Repository
) -> None:
    mirror = Mirror(
        pip_index=f"https://me:{PASSWORD}@index.invalid/simple",
        proxies={"https_proxy": f"http://me:{PASSWORD}@proxy.invalid"},
        apt_sources=(f"deb http://me:{PASSWORD}@archive.invalid/debian bookworm main",),
    )
    layer = Layer(name="x", kind="components", key="k", parent="", inputs={}, components=(), variables={})
    folder = tmp_path / "settings"
    folder.mkdir()
    playbook.write_settings(folder, layer, repository.plan(), mirror)
    secret = [path for path in folder.iterdir() if path.is_file() and PASSWORD in path.read_text()]
    assert {path.name for path in secret} == {"environment.json", "apt.conf", "sources.list"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
