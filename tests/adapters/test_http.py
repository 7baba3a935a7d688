"""The HTTP client: proxies, certificates, timeouts, retries, and protection of credentials."""

import http
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.host import http as client_module
from builder.adapters.host.http import TRANSIENT, Client, TransientError, raise_for_transient
from builder.adapters.host.network import Network
from builder.errors import BuildError, MissingError, UsageError
from tests.support.stub_server import Asked, Pauses, Serve, Stub, dripping
from tests.support.tunnel import tunnel_to

LOGIN = {"Authorization": "Basic secret"}
Answer = tuple[int, dict[str, str], bytes]


def ok(_: Asked) -> Answer:
    return 200, {}, b"fine"


def get(client: Client, url: str, **headers: str) -> bytes:
    with client.open("GET", url, headers=headers) as response:
        return b"".join(client.chunks(response))


def test_sends_an_http_request_through_the_proxy_with_the_proxy_login(serve: Serve) -> None:
    stub = serve(Stub(answer=ok))
    network = Network(proxies={"http_proxy": f"http://me:p%40ss@{stub.host}", "no_proxy": "direct.invalid"})
    client = Client(network)
    assert get(client, "http://server.invalid:5000/v2/") == b"fine"
    assert stub.asked[0].line == "GET http://server.invalid:5000/v2/"
    assert stub.asked[0].host == "server.invalid:5000"
    assert stub.asked[0].authorization == ""
    assert stub.asked[0].proxy_authorization == "Basic bWU6cEBzcw=="
    with pytest.raises(MissingError, match=r"direct\.invalid:5000 cannot be reached: Name or service"):
        get(client, "http://direct.invalid:5000/v2/")


def test_defaults_to_http_for_a_proxy_without_a_scheme(serve: Serve) -> None:
    stub = serve(Stub(answer=ok))
    assert get(Client(Network(proxies={"http_proxy": stub.host})), "http://server.invalid/") == b"fine"


def test_reads_proxy_variables_in_lower_and_upper_case(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = serve(Stub(answer=ok))
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://{stub.host}")
    monkeypatch.setenv("no_proxy", "*.direct.invalid, .other.invalid")
    network = Network.from_environment()
    assert get(Client(network), "http://server.invalid/") == b"fine"
    assert network.proxy_for("http://a.other.invalid/") == ""
    assert network.proxy_for("http://other.invalid/") == ""
    assert network.proxy_for("http://another.invalid/") == f"http://{stub.host}"


@pytest.mark.parametrize("host", ["127.0.0.1:9", "127.8.9.1", "localhost", "[::1]:80", "LOCALHOST"])
def test_uses_no_proxy_for_loopback(host: str) -> None:
    proxies = {"http_proxy": "http://proxy.invalid", "https_proxy": "http://proxy.invalid"}
    assert Network(proxies=proxies).proxy_for(f"http://{host}/") == ""
    assert Network(proxies=proxies).proxy_for(f"https://{host}/") == ""


def test_tunnels_tls_through_the_proxy_without_showing_it_the_server_login(
    serve: Serve, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    stub = serve(Stub(answer=ok), context)
    with tunnel_to(stub.host) as tunnel:
        proxy = tunnel.url.replace("://", "://me:secret@")
        client = Client(Network(proxies={"https_proxy": proxy}, ca_bundle=certificate))
        assert get(client, "https://registry.test/a", **LOGIN) == b"fine"
        assert get(client, "https://registry.test/b", **LOGIN) == b"fine"
    assert tunnel.asked == ["registry.test:443"]  # the connection is reused
    assert tunnel.logins == ["Basic bWU6c2VjcmV0"]
    assert [asked.line for asked in stub.asked] == ["GET /a", "GET /b"]
    assert {asked.authorization for asked in stub.asked} == {LOGIN["Authorization"]}
    assert {asked.proxy_authorization for asked in stub.asked} == {""}


def test_names_a_refusing_proxy_without_its_password(serve: Serve) -> None:
    stub = serve(Stub(answer=lambda _: (403, {}, b"")))
    client = Client(Network(proxies={"https_proxy": f"http://me:secret@{stub.host}"}))
    with pytest.raises(MissingError) as caught:
        get(client, "https://server.invalid/")
    words = "cannot be reached through the proxy 127.0.0.1: Tunnel connection failed: 403 Forbidden"
    assert caught.value.message == f"server.invalid {words}"


def test_redirect_to_another_origin_drops_the_login(serve: Serve) -> None:
    other = serve(Stub(answer=ok))
    own = serve(
        Stub(
            answer=lambda asked: {
                "GET /same": (307, {"Location": "/away"}, b""),
                "GET /away": (307, {"Location": f"http://{other.host}/"}, b""),
            }[asked.line]
        )
    )
    assert get(Client(Network()), f"http://{own.host}/same", **LOGIN) == b"fine"
    assert [asked.authorization for asked in own.asked] == [LOGIN["Authorization"]] * 2
    assert [asked.authorization for asked in other.asked] == [""]


def test_drops_a_login_that_belongs_to_another_origin(serve: Serve) -> None:
    stub, client = serve(Stub(answer=ok)), Client(Network())
    with client.open("GET", f"http://{stub.host}/", origin="http://127.0.0.1:1", headers=LOGIN):
        assert stub.asked[0].authorization == ""


def test_stops_after_five_redirects(serve: Serve) -> None:
    stub = serve(Stub(answer=lambda _: (302, {"Location": "/"}, b"")))
    with pytest.raises(BuildError, match=f"{stub.host}: redirected 5 times"):
        get(Client(Network(), failure=BuildError), f"http://{stub.host}/")
    assert len(stub.asked) == 5


def test_does_not_follow_a_redirect_of_a_post(serve: Serve) -> None:
    stub, client = serve(Stub(answer=lambda _: (307, {"Location": "/b"}, b""))), Client(Network())
    with client.open("POST", f"http://{stub.host}/a") as response:
        assert response.status == 307
    assert [asked.line for asked in stub.asked] == ["POST /a"]


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_times_out_on_a_silent_server(silent: str) -> None:
    with pytest.raises(TransientError, match=r"no data for 0\.2 s"):
        get(Client(Network(), silence_s=0.2), f"http://{silent}/")


def test_refuses_a_ca_bundle_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none\n")
    with pytest.raises(UsageError, match=r"ca\.pem contains no certificates"):
        get(Client(Network(ca_bundle=tmp_path / "ca.pem")), "https://server.invalid/")


def test_does_not_retry_https_on_a_server_without_tls(serve: Serve) -> None:
    stub, pauses = serve(Stub(answer=ok)), Pauses()
    client = Client(Network(), cancelled=pauses)
    with pytest.raises(MissingError, match=r"cannot be reached: .*[Ww]rong.version"):
        client.retry("it", lambda: get(client, f"https://{stub.host}/"))
    assert pauses.taken == []


@pytest.mark.parametrize("status", sorted(TRANSIENT))
def test_retries_a_transient_status_until_it_succeeds(serve: Serve, status: int) -> None:
    statuses = [status, status, 200]
    stub = serve(Stub(answer=lambda _: (statuses.pop(0), {}, b"fine")))
    pauses, messages = Pauses(), list[str]()
    client = Client(Network(), cancelled=pauses, say=messages.append)

    def attempt() -> bytes:
        with client.open("GET", f"http://{stub.host}/") as response:
            raise_for_transient(response, f"answered {response.status}")
            return b"".join(client.chunks(response))

    assert client.retry("it", attempt) == b"fine"
    assert pauses.taken == [0.5, 1.0]
    assert messages[0] == f"it: answered {status}; retrying in 0.5 s (attempt 1 of 5)"


@pytest.mark.parametrize(
    "status", sorted({status.value for status in http.HTTPStatus} - TRANSIENT - {100, 101, 102, 103})
)
def test_does_not_retry_a_status_that_is_not_transient(serve: Serve, status: int) -> None:
    stub, client = serve(Stub(answer=lambda _: (status, {}, b""))), Client(Network())
    with client.open("POST", f"http://{stub.host}/") as response:
        raise_for_transient(response, "never raised")
        assert response.status == status


@pytest.mark.parametrize(
    ("retry_after", "pause_s"), [("7", 7.0), ("99999", 30.0), ("", 0.5), ("soon", 0.5), ("0", 0.5)]
)
def test_obeys_a_retry_after_header_up_to_30_seconds(serve: Serve, retry_after: str, pause_s: float) -> None:
    answers: list[Answer] = [(503, {"Retry-After": retry_after}, b""), (200, {}, b"fine")]
    stub, pauses = serve(Stub(answer=lambda _: answers.pop(0))), Pauses()
    client = Client(Network(), cancelled=pauses)

    def attempt() -> None:
        with client.open("GET", f"http://{stub.host}/") as response:
            raise_for_transient(response, "busy")

    client.retry("it", attempt)
    assert pauses.taken == [pause_s]


def test_threads_can_share_a_client(serve: Serve) -> None:
    stub, client = serve(Stub(answer=ok)), Client(Network())
    barrier, found = threading.Barrier(8, timeout=30), list[bytes]()

    def ask() -> None:
        barrier.wait()
        found.extend(get(client, f"http://{stub.host}/{number}") for number in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [b"fine"] * 40


ENDLESS = {
    "body": b"HTTP/1.1 200 OK\r\n\r\n",
    "body of known size": b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "status": b"HTTP/1.1 200 ",
}


@pytest.mark.parametrize("start", ENDLESS.values(), ids=list(ENDLESS))
def test_a_slow_response_hits_the_time_limit(monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    for name in ("_HEADERS_S", "_LONGEST_S"):
        monkeypatch.setattr(client_module, name, 0.2)
    with dripping(start) as host, pytest.raises((BuildError, TransientError)):
        get(Client(Network(), failure=BuildError), f"http://{host}/")
