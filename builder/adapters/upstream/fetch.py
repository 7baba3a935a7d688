"""Reads what an address holds, over http, https or from a file: proxies, certificates, bounded retries.

Keeps nothing on disk. Knows the mirror that stands before an address; must not know what the bytes are for.
"""

import hashlib
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit

from builder.adapters.upstream.mirror import Mirror
from builder.errors import Interrupted, MissingError, UsageError

_CHUNK = 1 << 20
_SILENCE_S = 30.0
_LONGEST_S = 3600.0  # a CUDA installer of 5 GB over 12 Mbit/s
_TRIES = 4
_FIRST_PAUSE_S = 1.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_CERTIFICATES = "name the CA that signed it: mirror.ca_bundle in site.toml"
REACH = "from a machine that reaches it: builder lock; or name a mirror: mirror.prefixes in site.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What an address held."""

    sha256: str
    size: int


class _Broken(Exception):
    """A try that failed in a way that may pass."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where an address sends it, but never from https to something weaker."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise MissingError(f"{req.host} sends us to {newurl}, which is not https", hint=REACH)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Proxies(urllib.request.ProxyHandler):
    """The proxy for each address anew: a redirection may lead to where another is needed, or none."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(dict.fromkeys(("http", "https"), "asked for when needed"))
        self._mirror = mirror

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:  # noqa: A002, ARG002 (as in the base)
        found = self._mirror.proxy_for(req.full_url)
        return super().proxy_open(req, found, type) if found else None


class Fetcher:
    """Reads addresses; threads may share it. `cancelled` stops it at the next chunk."""

    def __init__(
        self,
        mirror: Mirror,
        *,
        cancelled: threading.Event | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._mirror = mirror
        self._cancelled = cancelled or threading.Event()
        self._wait = wait or self._cancelled.wait
        self._context = ssl.create_default_context()
        try:
            if mirror.ca_bundle:
                self._context.load_verify_locations(mirror.ca_bundle)
        except OSError as error:
            raise UsageError(
                f"{mirror.ca_bundle} holds no certificates: {error}", hint=_CERTIFICATES
            ) from error

    def measure(self, url: str) -> Fetched:
        """Digest and size of what `url` holds."""
        return self._persist(url, lambda real: self._once(real, lambda _: None))

    def read(self, url: str, *, limit: int) -> bytes:
        """All that `url` holds, which is not expected to be longer than `limit`."""
        kept = bytearray()

        def keep(chunk: bytes) -> None:
            kept.extend(chunk)
            if len(kept) > limit:
                raise MissingError(f"{url} holds more than {limit} bytes: it is not what it should be")

        def action(real: str) -> Fetched:
            kept.clear()
            return self._once(real, keep)

        self._persist(url, action)
        return bytes(kept)

    def _persist(self, url: str, action: Callable[[str], Fetched]) -> Fetched:
        real = self._mirror.settings.rewrite(url)
        for attempt in range(_TRIES):
            try:
                return action(real)
            except _Broken as broken:
                reason = broken
            if attempt + 1 < _TRIES and self._wait(_FIRST_PAUSE_S * 2**attempt):
                raise Interrupted("interrupted")
        raise MissingError(f"{_host(real)}: {reason} ({_TRIES} tries)", hint=REACH)

    def _once(self, real: str, take: Callable[[bytes], None]) -> Fetched:
        deadline = time.monotonic() + _LONGEST_S
        hashed, size = hashlib.sha256(), 0
        try:
            with self._opener().open(_request(real), timeout=_SILENCE_S) as response:
                while chunk := response.read(_CHUNK):
                    if self._cancelled.is_set():
                        raise Interrupted("interrupted")
                    if time.monotonic() > deadline:
                        raise MissingError(f"{_host(real)}: no end after {_LONGEST_S:.0f} s", hint=REACH)
                    take(chunk)
                    hashed.update(chunk)
                    size += len(chunk)
                _refuse_short(response.headers, size)
        except urllib.error.HTTPError as error:
            with error:
                said = f"answers {error.code} {error.reason}"
            if error.code in _PASSING:
                raise _Broken(said) from error
            raise MissingError(f"{_host(real)} {said}", hint=REACH) from error
        except urllib.error.URLError as error:
            _refuse(real, error.reason)
        except (OSError, http.client.HTTPException) as error:
            _refuse(real, error)
        return Fetched(sha256=hashed.hexdigest(), size=size)

    def _opener(self) -> urllib.request.OpenerDirector:
        opener = urllib.request.OpenerDirector()
        for handler in (
            _Proxies(self._mirror),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=self._context),
            urllib.request.FileHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(),
        ):
            opener.add_handler(handler)
        return opener


def _request(real: str) -> urllib.request.Request:
    # Which schemes are spoken at all, the opener's handlers say.
    return urllib.request.Request(real, headers={"User-Agent": "image-factory"})  # noqa: S310


def _refuse_short(headers: Message, size: int) -> None:
    """http.client ends a body that breaks off as if it were whole."""
    announced = headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) != size:
        raise _Broken(f"broke off after {size} of {announced} bytes")


def _refuse(real: str, reason: object) -> NoReturn:
    """What a network does, as something that may pass or will not."""
    host = _host(real)
    if isinstance(reason, ssl.SSLCertVerificationError):
        message = f"{host} shows a certificate that is not trusted here: {reason.verify_message}"
        raise MissingError(message, hint=_CERTIFICATES)
    is_unknown = isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN
    if isinstance(reason, FileNotFoundError):
        raise MissingError(f"no file {urlsplit(real).path}", hint="correct mirror.prefixes in site.toml")
    if is_unknown or isinstance(reason, ConnectionRefusedError | str):
        raise MissingError(f"{host} cannot be reached: {_worded(reason)}", hint=REACH)
    raise _Broken(_worded(reason))


def _worded(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"silent for {_SILENCE_S:.0f} s"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


def _host(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path
