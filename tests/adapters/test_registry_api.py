"""The registry API client against stub servers: token login, redirects, https, proxies."""

import json
import re
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from builder.adapters.host.network import Network
from builder.adapters.registry.api import Credentials, in_domain_of, origin_of
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
    assert lines == [blob, "GET /token", blob, "GET /v2/app/manifests/1"]
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
    with Registry(stub.host, credentials=me) as registry, pytest.raises(PublishError, match="https"):
        registry.has_blob("app", sha256(BLOB))


def test_redirect_to_another_host_drops_the_login(serve: Serve) -> None:
    store = serve(Stub(answer=lambda _asked: (200, {}, BLOB)))

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if not asked.authorization:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
        return 307, {"Location": f"http://{store.host}/elsewhere?signed=1"}, b""

    front = serve(Stub(answer=answer))
    with Registry(front.host, credentials=Credentials(username="me", password="secret")) as registry:
        assert registry.get_blob("app", sha256(BLOB)) == BLOB
    assert [asked.authorization for asked in store.asked] == [""]


def test_stops_after_five_redirects(serve: Serve) -> None:
    stub = serve(Stub(answer=lambda asked: (302, {"Location": asked.line.split(" ")[1]}, b"")))
    with Registry(stub.host) as registry, pytest.raises(PublishError, match="redirected 5 times"):
        registry.get_blob("app", sha256(BLOB))


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


def test_refuses_a_redirect_from_https_to_http(serve: Serve, certificate: Path) -> None:
    plain = serve(Stub(answer=lambda _asked: (200, {}, BLOB)))
    redirect = {"Location": f"http://{plain.host}/blob"}
    stub = serve(Stub(answer=lambda _asked: (307, redirect, b"")), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        network = Network(proxies={"https_proxy": tunnel.url}, ca_bundle=certificate)
        registry = Registry("registry.test", network=network)
        with registry, pytest.raises(PublishError, match="not https"):
            registry.get_blob("app", sha256(BLOB))
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


ME = Credentials(username="ci", password="s3cret")
ASKS = {
    "blob": lambda registry: registry.get_blob("app", sha256(BLOB)),
    "manifest": lambda registry: registry.get_manifest("app", "1"),
    "tags": lambda registry: registry.tags("app"),
    "upload": lambda registry: registry.push_blob("app", Blob.of(BLOB)),
    "token": lambda registry: registry.find_manifest("app", "1"),
}


def thief(serve: Serve) -> Stub:
    """A server that answers every request with 401 and names itself as the token server."""

    def answer(_: Asked) -> tuple[int, dict[str, str], bytes]:
        challenges = [f'Bearer realm="http://{stub.host}/token",service="s"', 'Basic realm="r"']
        return 401, {"WWW-Authenticate": challenges[len(stub.asked) % 2]}, b'{"token": "t"}'

    stub = serve(Stub(answer=answer))
    return stub


def sending_away(serve: Serve, ask: str, away: str, *, challenges: bool) -> Stub:
    """A registry that redirects the request `ask` to `away`; with `challenges` it first requires a login."""
    redirect = (307, {"Location": away}, b"")

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        verb, path = asked.line.split(" ")
        if path.startswith("/token"):
            return redirect if ask == "token" else (200, {}, b'{"token": "t"}')
        if challenges and not asked.authorization:
            scheme = "Basic" if ask == "upload" else "Bearer"
            challenge = f'{scheme} realm="http://{stub.host}/token",service="s"'
            return 401, {"WWW-Authenticate": challenge}, b""
        if ask == "upload":
            return (404, {}, b"") if verb == "HEAD" else (202 if verb == "POST" else 201, redirect[1], b"")
        if ask == "tags" and "?" not in path:
            return 200, {"Link": f'<{away}>; rel="next"'}, b'{"tags": ["1"]}'
        return redirect

    stub = serve(Stub(answer=answer))
    return stub


@pytest.mark.parametrize(("ask", "challenges"), [(ask, flag) for ask in ASKS for flag in (True, False)][:-1])
def test_login_never_reaches_another_server(serve: Serve, ask: str, challenges: bool) -> None:
    other = thief(serve)
    away = f"http://{other.host}/v2/app/tags/list?last=1"
    stub = sending_away(serve, ask, away, challenges=challenges)
    with (
        Registry(stub.host, credentials=ME) as registry,
        pytest.raises((MissingError, PublishError)) as caught,
    ):
        ASKS[ask](registry)
    assert caught.value.hint
    assert len(other.asked) == (0 if ask == "token" else 1)  # a request of its own, without a login
    assert [asked.authorization for asked in other.asked if asked.authorization] == []
    assert (ME.basic in [asked.authorization for asked in stub.asked]) is challenges


@pytest.mark.parametrize("credentials", [ME, None])
@pytest.mark.parametrize(
    "realm",
    [
        "http://{other}/token",
        "HTTP://{other}/token",
        "//{other}/token",
        "http://{own}@{other}/token",
        "http://{other}\\@{own}/token",
        "http://{own}\\@{other}/token",
        "http://{own} .{other}/token",
        "http://{own}#@{other}/token",
    ],
)
def test_refuses_a_token_server_at_another_address(
    serve: Serve, realm: str, credentials: Credentials | None
) -> None:
    other = thief(serve)
    stub = serve(Stub(answer=lambda _: (401, {"WWW-Authenticate": f'Bearer realm="{at}"'}, b"")))
    at = realm.format(own=stub.host, other=other.host)
    with Registry(stub.host, credentials=credentials) as registry, pytest.raises(PublishError) as caught:
        registry.find_manifest("app", "1")
    # The error message shows the URL without the part that may be a login.
    shown = re.sub(r"//.*@", "//***@", at)
    assert repr(shown) in caught.value.message
    assert other.asked == []


@pytest.mark.parametrize("named", [(), ("127.0.0.1",)])
def test_token_server_outside_of_the_registrys_domain_must_be_in_the_site_file(
    serve: Serve, certificate: Path, named: tuple[str, ...]
) -> None:
    tokens = serve(Stub(answer=lambda _: (200, {}, b'{"token": "t"}')), tls(certificate))

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        challenge = {"WWW-Authenticate": f'Bearer realm="https://{tokens.host}/token"'}
        return (404, {}, b"") if asked.authorization == "Bearer t" else (401, challenge, b"")

    stub = serve(Stub(answer=answer), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        network = Network(proxies={"https_proxy": tunnel.url}, ca_bundle=certificate, token_hosts=named)
        with Registry("registry.test", credentials=ME, network=network) as registry:
            if named:
                assert registry.find_manifest("app", "1") is None
            else:
                with pytest.raises(PublishError, match="outside of the registry's domain") as caught:
                    registry.find_manifest("app", "1")
                assert "mirror.token_hosts = ['127.0.0.1']" in caught.value.hint
    assert [asked.authorization for asked in tokens.asked] == [ME.basic] * len(named)


@pytest.mark.parametrize(
    ("server", "registry", "trusted"),
    [
        ("ghcr.io", "ghcr.io", True),
        ("auth.docker.io", "registry-1.docker.io", True),
        ("gitlab.example.com", "registry.example.com", True),
        ("example.com", "registry.example.com", True),
        ("auth.registry.example.com", "registry.example.com", True),
        ("evil.example", "registry.example.com", False),
        ("evilexample.com", "registry.example.com", False),
        ("registry.example.com.evil.example", "registry.example.com", False),
        ("evil.io", "ghcr.io", False),
        ("evil.co.uk", "firm.co.uk", False),
        ("auth.firm.co.uk", "registry.firm.co.uk", True),
        ("10.0.0.2", "10.0.0.1", False),
    ],
)
def test_token_server_is_trusted_only_in_the_domain_of_its_registry(
    server: str, registry: str, trusted: bool
) -> None:
    assert in_domain_of(server, registry) is trusted
