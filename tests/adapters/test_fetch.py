"""The URL fetcher: digests and sizes, mirrors, proxies, certificates, network failures."""

import hashlib
import http.server
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.adapters.upstream.fetch import Fetched, Fetcher
from builder.adapters.upstream.mirror import Mirror
from builder.errors import Interrupted, MissingError, UsageError
from builder.site import MirrorSettings
from tests.support.stub_server import Pauses

BYTES = bytes(range(256)) * 20_000
MEASURED = Fetched(sha256=hashlib.sha256(BYTES).hexdigest(), size=len(BYTES))


@dataclass
class Web:
    """HTTP server on loopback: `files` maps paths to bodies; `faults` are statuses of the next responses."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    host: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def serving(web: Web, *, context: ssl.SSLContext | None = None) -> Iterator[Web]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            fault = web.faults.pop(0) if web.faults else 0
            path = self.path.partition("?")[0]
            if fault >= 400:
                self.send_error(fault)
            elif path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[path])
                self.end_headers()
            elif path not in web.files:
                self.send_error(404)
            else:
                body = web.files[path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                # A fault below 400 is the number of bytes after which the body is truncated.
                self.wfile.write(body[: fault or None])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web(files={"/a.tar.gz": BYTES})) as served:
        yield served


def make_mirror(prefixes: Mapping[str, str] | None = None, **more: object) -> Mirror:
    return Mirror(settings=MirrorSettings(prefixes=prefixes or {}), **more)  # type: ignore[arg-type]


def make_fetcher(mirror: Mirror | None = None, pauses: Pauses | None = None) -> Fetcher:
    return Fetcher(mirror or make_mirror(), cancelled=pauses or Pauses())


def test_measures_digest_and_size_of_a_url(web: Web) -> None:
    assert make_fetcher().measure(f"{web.url}/a.tar.gz") == MEASURED


def test_measures_a_file_url(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BYTES)
    assert make_fetcher().measure(f"file://{tmp_path}/a") == MEASURED
    with pytest.raises(MissingError, match=r"no file .*/b"):
        make_fetcher().measure(f"file://{tmp_path}/b")


def test_longest_matching_prefix_selects_the_mirror(web: Web, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    mirror = make_mirror(
        {"https://vendor.example/": f"{web.url}/", "https://vendor.example/x/": f"file://{tmp_path}/"}
    )
    assert make_fetcher(mirror).measure("https://vendor.example/a.tar.gz") == MEASURED
    assert make_fetcher(mirror).measure("https://vendor.example/x/x").size == 1


@pytest.mark.parametrize("fault", [503, 429, 300])
def test_retries_after_a_transient_failure(web: Web, fault: int) -> None:
    web.faults = [fault, fault]
    pauses = Pauses()
    assert make_fetcher(pauses=pauses).measure(f"{web.url}/a.tar.gz") == MEASURED
    assert pauses.taken == [0.5, 1.0]


@pytest.mark.parametrize(
    ("fault", "words"), [(503, "answers 503"), (300, "connection closed after 300 of 5120000")]
)
def test_fails_after_five_tries(web: Web, fault: int, words: str) -> None:
    web.faults = [fault] * 9
    with pytest.raises(MissingError, match=rf"{web.host}: {words}.* \(5 tries\)"):
        make_fetcher().measure(f"{web.url}/a.tar.gz")
    assert len(web.asked) == 5


@pytest.mark.parametrize(
    ("path", "words"), [("/none", "answers 404 Not Found"), ("/a.tar.gz", "answers 403")]
)
def test_fails_at_once_on_403_and_404(web: Web, path: str, words: str) -> None:
    web.faults = [403] if "403" in words else []
    with pytest.raises(MissingError, match=words):
        make_fetcher().measure(web.url + path)
    assert len(web.asked) == 1


def test_names_an_unreachable_host_at_once_without_the_path() -> None:
    pauses = Pauses()
    for url, words in (
        ("http://127.0.0.1:9/a/b/c", "127.0.0.1:9 cannot be reached: Connection refused"),
        ("https://vendor.invalid/a/b/c", "vendor.invalid cannot be reached: Name or service not known"),
        ("gopher://vendor.invalid/a", "vendor.invalid cannot be reached: unknown url type: gopher"),
    ):
        with pytest.raises(MissingError) as caught:
            make_fetcher(pauses=pauses).measure(url)
        assert caught.value.message == words
        assert "mirror.prefixes" in caught.value.hint
    assert pauses.taken == []


class CancelledByPause(Pauses):
    """Event that is set during its first wait, as if by a signal."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return super().wait(timeout)


def test_cancellation_ends_a_pause_and_a_transfer(web: Web) -> None:
    web.faults = [503]
    pauses = CancelledByPause()
    with pytest.raises(Interrupted):
        make_fetcher(pauses=pauses).measure(f"{web.url}/a.tar.gz")
    assert pauses.taken == [0.5]
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Interrupted):
        Fetcher(make_mirror(), cancelled=cancelled).measure(f"{web.url}/a.tar.gz")


def test_uses_the_proxy_except_for_loopback_and_no_proxy(web: Web) -> None:
    web.files["http://vendor.example/b"] = b"through the proxy"
    proxies = {"http_proxy": web.url, "no_proxy": ".internal.invalid, other.invalid"}
    fetcher = make_fetcher(make_mirror(proxies=proxies))
    assert fetcher.measure("http://vendor.example/b").size == 17
    assert web.asked == ["http://vendor.example/b"]
    assert fetcher.measure(f"{web.url}/a.tar.gz") == MEASURED
    for host in ("a.internal.invalid", "other.invalid"):
        with pytest.raises(MissingError, match=f"{host} cannot be reached"):
            fetcher.measure(f"http://{host}/b")


def test_follows_a_redirect_through_the_proxy(web: Web) -> None:
    web.redirects = {"/away": "http://vendor.example/b"}
    web.files["http://vendor.example/b"] = b"through the proxy"
    fetcher = make_fetcher(make_mirror(proxies={"http_proxy": web.url}))
    assert fetcher.measure(f"{web.url}/away").size == 17
    assert web.asked == ["/away", "http://vendor.example/b"]


def test_refuses_a_ca_bundle_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("text\n")
    with pytest.raises(UsageError, match="contains no certificates"):
        make_fetcher(make_mirror(ca_bundle=tmp_path / "ca.pem")).measure("https://127.0.0.1:9/a")


def test_read_refuses_more_bytes_than_the_limit(web: Web) -> None:
    web.files["/list"] = b"x" * 1000
    assert make_fetcher().read(f"{web.url}/list", limit=1000) == b"x" * 1000
    with pytest.raises(MissingError, match="larger than the limit of 999 bytes"):
        make_fetcher().read(f"{web.url}/list", limit=999)


def test_read_drops_partial_data_before_a_retry(web: Web) -> None:
    web.files["/list"] = b"x" * 1000
    web.faults = [300]
    assert make_fetcher().read(f"{web.url}/list", limit=1000) == b"x" * 1000


def test_follows_redirects_but_not_in_a_circle(web: Web) -> None:
    web.redirects = {"/old": "/a.tar.gz", "/round": "/round"}
    assert make_fetcher().measure(f"{web.url}/old") == MEASURED
    with pytest.raises(MissingError):
        make_fetcher().measure(f"{web.url}/round")


def test_trusts_a_private_ca_and_refuses_a_redirect_from_https_to_http(web: Web, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    away = Web(files={"/a": b"secure"}, redirects={"/down": f"{web.url}/a.tar.gz"})
    with serving(away, context=context) as secure:
        url = f"https://{secure.host}"
        with pytest.raises(MissingError, match="is not trusted") as caught:
            make_fetcher().measure(f"{url}/a")
        assert "mirror.ca_bundle" in caught.value.hint
        trusting = make_fetcher(make_mirror(ca_bundle=certificate))
        assert trusting.measure(f"{url}/a").size == 6
        with pytest.raises(MissingError, match="which is not https"):
            trusting.measure(f"{url}/down")
    assert web.asked == []
