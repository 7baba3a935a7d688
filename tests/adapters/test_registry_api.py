"""The registry API client against stub servers: token login, redirects, https, proxies."""

import json
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from builder.adapters.host.network import Network
from builder.adapters.registry.api import Credentials, origin_of
from builder.adapters.registry.blobs import sha256
from builder.adapters.registry.client import Blob, Registry
from builder.errors import MissingError, PublishError
from builder.rehearsal.registry.server import LocalRegistry
from tests.support.stub_server import Asked, Serve, Stub
from tests.support.tunnel import tunnel_to

BLOB = b"the blob"


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


def test_reuses_a_token_for_later_requests(serve: Serve) -> None:
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


def test_refused_token_hints_docker_login(serve: Serve) -> None:
    stub = token_registry(serve, grants=False)
    with Registry(stub.host) as registry, pytest.raises(MissingError, match="403") as caught:
        registry.has_blob("app", sha256(BLOB))
    assert caught.value.hint == f"docker login {stub.host}"


def test_refuses_to_send_a_password_to_a_token_server_without_https(serve: Serve) -> None:
    stub = token_registry(serve, realm="ftp://elsewhere.example/token")
    me = Credentials(username="me", password="secret")
    with Registry(stub.host, credentials=me) as registry, pytest.raises(PublishError, match="not https"):
        registry.has_blob("app", sha256(BLOB))


def test_redirect_to_another_host_drops_the_login(serve: Serve, tmp_path: Path) -> None:
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


def test_stops_after_five_redirects(serve: Serve, tmp_path: Path) -> None:
    stub = serve(Stub(answer=lambda asked: (302, {"Location": asked.line.split(" ")[1]}, b"")))
    with Registry(stub.host) as registry, pytest.raises(PublishError, match="redirected 5 times"):
        registry.fetch_blob("app", sha256(BLOB), tmp_path / "blob")


def test_uses_no_proxy_for_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with LocalRegistry(tmp_path) as local, Registry(local.host) as registry:
        registry.ping()


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_trusts_a_private_ca_from_ssl_cert_file(
    serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = serve(Stub(answer=lambda _asked: (200, {}, b"{}")), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        monkeypatch.setenv("https_proxy", tunnel.url)
        with (
            Registry("registry.test") as registry,
            pytest.raises(MissingError, match="not trusted") as caught,
        ):
            registry.ping()
        assert "SSL_CERT_FILE" in caught.value.hint
        assert stub.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Registry("registry.test") as registry:
            registry.ping()
    assert tunnel.asked == ["registry.test:443"] * 2


def test_site_network_overrides_the_environment(
    serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    stub = serve(Stub(answer=lambda _asked: (200, {}, b"{}")), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        network = Network(proxies={"https_proxy": tunnel.url}, ca_bundle=certificate)
        with Registry("registry.test", network=network) as registry:
            registry.ping()
    assert tunnel.asked == ["registry.test:443"]


def test_refuses_a_redirect_from_https_to_http(serve: Serve, certificate: Path, tmp_path: Path) -> None:
    plain = serve(Stub(answer=lambda _asked: (200, {}, BLOB)))
    redirect = {"Location": f"http://{plain.host}/blob"}
    stub = serve(Stub(answer=lambda _asked: (307, redirect, b"")), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        network = Network(proxies={"https_proxy": tunnel.url}, ca_bundle=certificate)
        registry = Registry("registry.test", network=network)
        with registry, pytest.raises(PublishError, match="not https"):
            registry.fetch_blob("app", sha256(BLOB), tmp_path / "blob")
    assert plain.asked == []


def test_refuses_an_upload_location_without_https(serve: Serve, certificate: Path) -> None:
    plain = serve(Stub(answer=lambda _asked: (201, {}, b"")))

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if asked.line.startswith("HEAD"):
            return 404, {}, b""
        return 202, {"Location": f"http://{plain.host}/upload"}, b""

    stub = serve(Stub(answer=answer), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        network = Network(proxies={"https_proxy": tunnel.url}, ca_bundle=certificate)
        registry = Registry("registry.test", network=network)
        with registry, pytest.raises(PublishError, match="not https"):
            registry.push_blob("app", Blob.of(BLOB))
    assert plain.asked == []


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("registry.example", "https"),
        ("registry.example:5000", "https"),
        ("127.example.com", "https"),
        ("127.0.0.1:5000", "http"),
        ("127.8.0.1", "http"),
        ("[::1]:5000", "http"),
        ("localhost:5000", "http"),
    ],
)
def test_uses_plain_http_only_for_loopback(host: str, scheme: str) -> None:
    assert origin_of(host) == f"{scheme}://{host}"


def test_redirect_of_the_token_server_drops_the_password(serve: Serve) -> None:
    elsewhere = serve(Stub(answer=lambda _asked: (200, {}, json.dumps({"token": "t"}).encode())))

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if asked.line.startswith("GET /token"):
            return 307, {"Location": f"http://{elsewhere.host}/token"}, b""
        if asked.authorization == "Bearer t":
            return 404, {}, b""
        return 401, {"WWW-Authenticate": f'Bearer realm="http://{stub.host}/token",service="s"'}, b""

    stub = serve(Stub(answer=answer))
    me = Credentials(username="me", password="secret")
    with Registry(stub.host, credentials=me) as registry:
        assert not registry.has_blob("app", sha256(BLOB))
    assert [asked.authorization for asked in elsewhere.asked] == [""]
    assert stub.asked[1].authorization == me.basic
