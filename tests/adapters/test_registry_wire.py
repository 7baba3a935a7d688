"""Log-in by token, redirects, TLS and proxies, against a server that does nothing else."""

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from builder.adapters.host.http import Credentials
from builder.adapters.registry.blobs import sha256
from builder.adapters.registry.client import Registry
from builder.errors import MissingError, PublishError
from builder.rehearsal.registry.server import LocalRegistry

BLOB = b"the blob"


@dataclass(kw_only=True)
class Asked:
    line: str
    authorization: str
    host: str


@dataclass(kw_only=True)
class Stub:
    """What the server answers to a path: status, headers, body; and what it was asked."""

    answer: Callable[[Asked], tuple[int, dict[str, str], bytes]]
    asked: list[Asked] = field(default_factory=list)
    host: str = ""


@pytest.fixture
def serve() -> Iterator[Callable[..., Stub]]:
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(stub: Stub, *, context: ssl.SSLContext | None = None) -> Stub:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = Asked(
                    line=f"{self.command} {self.path}",
                    authorization=self.headers.get("Authorization", ""),
                    host=self.headers.get("Host", ""),
                )
                stub.asked.append(asked)
                status, headers, body = stub.answer(asked)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Silent."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stub.host = f"127.0.0.1:{server.server_port}"
        return stub

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Serve = Callable[..., Stub]


def token_registry(serve: Serve, *, realm: str = "", grants: bool = True) -> Stub:
    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(asked.line.split(" ")[1])
        if url.path == "/token":
            scopes = ",".join(parse_qs(url.query)["scope"])
            return (200, {}, json.dumps({"token": f"for {scopes}"}).encode()) if grants else (403, {}, b"no")
        scope = "repository:app:pull" + ("" if asked.line.startswith(("GET", "HEAD")) else ",push")
        if scope in asked.authorization:
            return 404, {}, b""
        at = realm or f"http://{stub.host}/token"
        challenge = f'Bearer realm="{at}",service="registry",scope="{scope}"'
        return 401, {"WWW-Authenticate": challenge}, b""

    stub = serve(Stub(answer=answer))
    return stub


def test_a_token_is_fetched_once_and_shown_again(serve: Serve) -> None:
    stub = token_registry(serve)
    me = Credentials(username="me", password="secret")
    with Registry(stub.host, credentials=me) as registry:
        assert not registry.has_blob("app", sha256(BLOB))
        assert registry.find_manifest("app", "1") is None
    lines = [asked.line.split("?")[0] for asked in stub.asked]
    blob = f"HEAD /v2/app/blobs/{sha256(BLOB)}"
    assert lines == [blob, "GET /token", blob, "HEAD /v2/app/manifests/1"]
    assert stub.asked[1].authorization == me.basic
    assert me.basic not in [asked.authorization for asked in stub.asked if "/token" not in asked.line]


def test_a_refused_token_is_a_missing_login(serve: Serve) -> None:
    stub = token_registry(serve, grants=False)
    with Registry(stub.host) as registry, pytest.raises(MissingError, match="403") as caught:
        registry.has_blob("app", sha256(BLOB))
    assert caught.value.hint == f"docker login {stub.host}"


def test_a_password_is_not_sent_where_anyone_could_read_it(serve: Serve) -> None:
    stub = token_registry(serve, realm="ftp://elsewhere.example/token")
    me = Credentials(username="me", password="secret")
    with Registry(stub.host, credentials=me) as registry, pytest.raises(PublishError, match="not https"):
        registry.has_blob("app", sha256(BLOB))


def test_a_redirect_is_followed_without_our_login(serve: Serve, tmp_path: Path) -> None:
    store = serve(Stub(answer=lambda _asked: (200, {}, BLOB)))

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if not asked.authorization:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
        return 307, {"Location": f"http://{store.host}/elsewhere?signed=1"}, b""

    front = serve(Stub(answer=answer))
    with Registry(front.host, credentials=Credentials(username="me", password="secret")) as registry:
        registry.fetch_blob("app", sha256(BLOB), tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == BLOB
    assert [asked.authorization for asked in store.asked] == [""]


def test_redirects_in_a_circle_end(serve: Serve, tmp_path: Path) -> None:
    stub = serve(Stub(answer=lambda asked: (302, {"Location": asked.line.split(" ")[1]}, b"")))
    with Registry(stub.host) as registry, pytest.raises(PublishError, match="redirected 5 times"):
        registry.fetch_blob("app", sha256(BLOB), tmp_path / "blob")


def test_tls_with_a_ca_of_ones_own(serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    stub = serve(Stub(answer=lambda _asked: (200, {}, b"{}")), context=context)
    with Registry(stub.host, secure=True) as registry:
        with pytest.raises(MissingError, match="not trusted") as caught:
            registry.ping()
        assert "SSL_CERT_FILE" in caught.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        registry.ping()


def test_a_registry_elsewhere_is_reached_through_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalRegistry(tmp_path) as proxied:
        monkeypatch.setenv("http_proxy", f"http://{proxied.host}")
        monkeypatch.setenv("no_proxy", "direct.invalid")
        with Registry("registry.invalid:5000", secure=False) as registry:
            registry.ping()
            assert not registry.has_blob("app", sha256(BLOB))
        with Registry("direct.invalid:5000", secure=False) as registry, pytest.raises(MissingError):
            registry.ping()


def test_loopback_is_never_asked_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with LocalRegistry(tmp_path) as local, Registry(local.host) as registry:
        registry.ping()


def test_the_proxys_login_is_shown_to_the_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = serve(Stub(answer=lambda _asked: (200, {}, b"{}")))
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{stub.host}")
    with Registry("registry.invalid", secure=False) as registry:
        registry.ping()
    assert stub.asked[0].line == "GET http://registry.invalid/v2/"
    assert stub.asked[0].host == "registry.invalid"
    assert stub.asked[0].authorization == ""


def test_tls_is_not_left_for_plain_http(
    serve: Serve, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = serve(Stub(answer=lambda _asked: (200, {}, BLOB)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    away = {"Location": f"http://{plain.host}/blob"}
    stub = serve(Stub(answer=lambda _asked: (307, away, b"")), context=context)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Registry(stub.host, secure=True) as registry, pytest.raises(PublishError, match="not https"):
        registry.fetch_blob("app", sha256(BLOB), tmp_path / "blob")
    assert plain.asked == []
