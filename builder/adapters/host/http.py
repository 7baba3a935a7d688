"""HTTP client: connection pool, proxies, certificates, redirects and the retry policy.

Knows status codes and network errors; must not know the purpose of requests. Imports urllib3 at the first
request, because most commands send none.
"""

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from builder.adapters.host.network import Network
from builder.errors import FactoryError, Interrupted, MissingError, UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse, PoolManager

T = TypeVar("T")

# HTTP statuses that are worth a retry; ansible/plugins/module_utils/fetching.py has the same set.
TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
_TRIES = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CONNECT_S = 10.0
SILENCE_S = 60.0
_HEADERS_S = 120.0  # for the headers of a response, which no other limit bounds
_LONGEST_S = 3600.0  # for the body of a response: a CUDA installer of 5 GB over 12 Mbit/s
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_CONNECTIONS = 8  # kept open per server
_CHUNK = 1 << 20
_SHOWN = 200  # characters of a header in a message
_CERTIFICATES = "set mirror.ca_bundle in site.toml to the server's CA, or export SSL_CERT_FILE=ca.pem"


class TransientError(Exception):
    """Retryable failure; `error` is the type to raise once all retries have failed."""

    def __init__(
        self, reason: str, *, retry_after_s: float = 0.0, error: type[FactoryError] | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.error = error


def raise_for_transient(response: "BaseHTTPResponse", reason: str) -> None:
    """Raise TransientError if the status is worth a retry."""
    if response.status in TRANSIENT:
        retry_after = response.headers.get("Retry-After", "")
        pause_s = float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else 0.0
        raise TransientError(reason, retry_after_s=pause_s)


class Client:
    """Thread-safe HTTP client for any number of servers.

    `failure` is the error type raised when a server fails, with `hint` as its hint. Setting `cancelled` ends
    a pause before a retry at once, and a transfer at the next chunk.
    """

    def __init__(
        self,
        network: Network,
        *,
        failure: type[FactoryError] = MissingError,
        hint: str = "",
        cancelled: threading.Event | None = None,
        say: Callable[[str], None] = lambda _: None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._network = network
        self._failure = failure
        self._hint = hint
        self._cancelled = cancelled or threading.Event()
        self._say = say
        self._silence_s = silence_s
        self._opening = threading.Lock()
        self._pools: dict[str, PoolManager] = {}  # by proxy
        self._reached: set[str] = set()  # hosts that have answered

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Interrupted("transfer interrupted", hint="re-run the command; it resumes")

    def retry(self, about: str, action: Callable[[], T]) -> T:
        """Call `action` until it succeeds, at most five times, while it raises TransientError."""
        attempt = 1
        while True:
            try:
                return action()
            except TransientError as failure:
                if attempt == _TRIES:
                    error = failure.error or self._failure
                    raise error(f"{about}: {failure} ({_TRIES} tries)", hint=self._hint) from failure
                pause_s = failure.retry_after_s or _FIRST_PAUSE_S * 2 ** (attempt - 1)
                pause_s = min(pause_s, _LONGEST_PAUSE_S)
                self._say(f"{about}: {failure}; retrying in {pause_s:g} s (attempt {attempt} of {_TRIES})")
            self._cancelled.wait(pause_s)
            self.check_cancelled()
            attempt += 1

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        origin: str = "",
        headers: Mapping[str, str] | None = None,
        body: Iterator[bytes] | None = None,
        follow: bool = True,
    ) -> Iterator["BaseHTTPResponse"]:
        """Send a request and follow its redirects; close the response at the end of the block.

        The `Authorization` header is sent to `origin` only (default: the origin of `url`), and the
        authentication challenge of another server is removed from its response. A redirect from https to http
        is refused. Raises TransientError for failures that are worth a retry.
        """
        self.check_cancelled()
        origin = origin or _origin(url)
        for _ in range(_MOST_REDIRECTS):
            self._refuse_downgrade(origin, url)
            is_own = _origin(url) == origin
            shown = {k: v for k, v in (headers or {}).items() if is_own or k.lower() != "authorization"}
            with self._translated_errors(url):
                response = self._send(method, url, shown, body)
            self._reached.add(host_of(url))
            if not is_own:
                response.headers.discard("WWW-Authenticate")
            location = response.headers.get("Location")
            is_redirect = response.status in _REDIRECTS and method in ("GET", "HEAD")
            if location is None or not is_redirect or not follow:
                break
            response.close()
            url = self.resolve(url, location)
        else:
            raise self._failure(
                f"{host_of(origin)}: redirected {_MOST_REDIRECTS} times", hint=f"curl -iL {url}"
            )
        try:
            with self._translated_errors(url):
                yield response
        finally:
            response.close()

    def resolve(self, base: str, location: str) -> str:
        """Return the absolute URL of a Location header; raise `failure` if the header is not a URL."""
        try:
            url = urljoin(base, location)
            _ = urlsplit(url).port
        except ValueError as error:
            words = f"{host_of(base)} names the location {location[:_SHOWN]!r}: {error}"
            raise self._failure(words, hint=self._hint) from error
        return url

    def chunks(self, response: "BaseHTTPResponse") -> Iterator[bytes]:
        """Yield the body in chunks; raise TransientError if it ends early, `failure` if it takes too long."""
        deadline = time.monotonic() + _LONGEST_S
        while chunk := response.read1(_CHUNK):  # read() would wait for a whole chunk of a slow server
            self.check_cancelled()
            if time.monotonic() > deadline:
                raise self._failure(f"the response did not end within {_LONGEST_S:g} s", hint=self._hint)
            yield chunk

    def _refuse_downgrade(self, origin: str, url: str) -> None:
        scheme = urlsplit(url).scheme
        if origin.startswith("https:") and scheme != "https":
            raise self._failure(f"{host_of(origin)} redirects to {url}, which is not https", hint=self._hint)
        if scheme not in ("http", "https"):
            raise MissingError(
                f"{host_of(url)} cannot be reached: unknown url type: {scheme}", hint=self._hint
            )

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Iterator[bytes] | None
    ) -> "BaseHTTPResponse":
        from urllib3 import Timeout

        # urllib3 applies the connect timeout to sending too, which is too short for a chunk of an upload.
        connect_s = self._silence_s if body else min(_CONNECT_S, self._silence_s)
        return self._pool(self._network.proxy_for(url)).urlopen(
            method,
            url,
            headers={"User-Agent": "image-factory", **headers},
            body=self._cancellable(body) if body else None,
            timeout=Timeout(connect=connect_s, read=self._silence_s),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )

    def _cancellable(self, body: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in body:
            self.check_cancelled()
            yield chunk

    def _pool(self, proxy: str) -> "PoolManager":
        from urllib3 import PoolManager, ProxyManager

        with self._opening:
            if proxy not in self._pools:
                context = _tls(self._network.ca_bundle)
                options: dict[str, Any] = {"maxsize": _CONNECTIONS, "ssl_context": context}
                if proxy:
                    shown = login_headers(proxy, name="proxy-authorization")
                    self._pools[proxy] = ProxyManager(
                        proxy, proxy_headers=shown, proxy_ssl_context=context, **options
                    )
                else:
                    self._pools[proxy] = PoolManager(**options)
                self._pools[proxy].pool_classes_by_scheme = _bounded_pools()
            return self._pools[proxy]

    @contextmanager
    def _translated_errors(self, url: str) -> Iterator[None]:
        """Translate errors of urllib3: to MissingError if a retry cannot help, else to TransientError."""
        from urllib3 import exceptions

        try:
            yield
        except exceptions.HTTPError as error:
            cause = _cause(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                words = f"the certificate of {host_of(url)} is not trusted: {cause.verify_message}"
                raise MissingError(words, hint=_CERTIFICATES) from error
            if isinstance(cause, exceptions.IncompleteRead):
                announced = cause.partial + (cause.expected or 0)
                raise TransientError(
                    f"connection closed after {cause.partial} of {announced} bytes"
                ) from error
            is_eof = isinstance(cause, ssl.SSLEOFError)
            at_connect = (
                exceptions.ConnectTimeoutError,
                exceptions.ProxyError,
                exceptions.LocationValueError,
            )
            if isinstance(error, at_connect) or (isinstance(cause, ssl.SSLError) and not is_eof):
                raise self._unreachable(url, cause) from error
            if isinstance(cause, TimeoutError | exceptions.ReadTimeoutError):
                raise TransientError(f"no data for {self._silence_s:g} s") from error
            words = str(cause) or type(cause).__name__
            raise TransientError(f"connection lost ({words})") from error

    def _unreachable(self, url: str, cause: BaseException) -> Exception:
        """Return TransientError if the host answered before or DNS failed temporarily, else MissingError."""
        proxy = self._network.proxy_for(url)
        through = f" through the proxy {urlsplit(proxy).hostname}" if proxy else ""
        words = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
        message = f"{host_of(url)} cannot be reached{through}: {words}"
        is_retryable = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        if is_retryable or host_of(url) in self._reached:
            return TransientError(message, error=MissingError)
        return MissingError(message, hint=self._hint)


def _tls(ca_bundle: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the CAs of the system (or SSL_CERT_FILE) and of the site."""
    context = ssl.create_default_context()
    try:
        if ca_bundle:
            context.load_verify_locations(ca_bundle)
    except OSError as error:
        raise UsageError(f"{ca_bundle} contains no certificates: {error}", hint=_CERTIFICATES) from error
    return context


@cache
def _bounded_pools() -> dict[str, type["HTTPConnectionPool"]]:
    """Return urllib3's pools by scheme, with connections that limit the time of a response's headers.

    The timeouts of urllib3 itself start again with every byte.
    """
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Connection(HTTPConnection):
        def getresponse(self) -> "HTTPResponse":  # type: ignore[override]
            late = threading.Event()
            timer = threading.Timer(_HEADERS_S, _shut_down, [self.sock, late])
            timer.daemon = True
            timer.start()
            try:
                response = super().getresponse()
            finally:
                timer.cancel()
            if late.is_set():  # a connection that was shut down looks like the end of the headers
                raise ConnectionAbortedError(f"headers did not end within {_HEADERS_S:g} s")
            return response

    class TlsConnection(Connection, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}


def _shut_down(connection: Any, late: threading.Event) -> None:
    """End a connection, also one that urllib3 has wrapped for TLS within TLS."""
    late.set()
    with suppress(OSError):
        getattr(connection, "socket", connection).shutdown(socket.SHUT_RDWR)


def _cause(error: BaseException) -> BaseException:
    """Return the socket or TLS error at the root of an error of urllib3."""
    for nested in (getattr(error, "original_error", None), error.__cause__, *error.args):
        if isinstance(nested, BaseException):
            return _cause(nested)
    return error


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def login_headers(url: str, *, name: str = "authorization") -> dict[str, str]:
    """Return the header for the user and password of a URL; no header if the URL has no login."""
    login = unquote(urlsplit(url).netloc.rpartition("@")[0])
    return {name: basic(login)} if login else {}


def basic(login: str) -> str:
    """Return the value of a header for basic authentication; `login` is USER:PASSWORD."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def host_of(url: str) -> str:
    """Return the host of a URL for messages, without credentials; for a file:// URL, its path."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path
