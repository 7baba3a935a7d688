"""Read the content of http, https and file URLs.

Stores nothing on disk. Applies the site's mirror to each URL; must not know the purpose of the content.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from builder.adapters.host.http import Client, host_of, raise_for_transient
from builder.adapters.upstream.mirror import Mirror
from builder.errors import MissingError

_CHUNK = 1 << 20
_SILENCE_S = 30.0
_LONGEST_S = 3600.0  # a CUDA installer of 5 GB over 12 Mbit/s
REACH = "run builder lock on a host with access to it, or set mirror.prefixes in site.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """Digest and size of a URL's content."""

    sha256: str
    size: int


class Fetcher:
    """Thread-safe reader of URLs; setting `cancelled` stops it at the next chunk."""

    def __init__(self, mirror: Mirror, *, cancelled: threading.Event | None = None) -> None:
        self._mirror = mirror
        self._client = Client(mirror.network, hint=REACH, cancelled=cancelled, silence_s=_SILENCE_S)

    def measure(self, url: str) -> Fetched:
        """Return digest and size of the content of `url`."""
        return self._fetch(url, lambda _: None)

    def read(self, url: str, *, limit: int) -> bytes:
        """Return the content of `url`; raise MissingError if it exceeds `limit` bytes."""
        kept = bytearray()

        def keep(chunk: bytes) -> None:
            kept.extend(chunk)
            if len(kept) > limit:
                raise MissingError(f"{url} is larger than the limit of {limit} bytes")

        self._fetch(url, keep, restart=kept.clear)
        return bytes(kept)

    def _fetch(
        self, url: str, take: Callable[[bytes], None], restart: Callable[[], None] = lambda: None
    ) -> Fetched:
        real = self._mirror.settings.rewrite(url)
        deadline = time.monotonic() + _LONGEST_S  # of all tries

        def attempt() -> Fetched:
            restart()
            return self._fetch_once(real, take, deadline)

        return self._client.retry(host_of(real), attempt)

    def _fetch_once(self, real: str, take: Callable[[bytes], None], deadline: float) -> Fetched:
        hashed, size = hashlib.sha256(), 0
        with self._open(real) as chunks:
            for chunk in chunks:
                self._client.check_cancelled()
                if time.monotonic() > deadline:
                    raise MissingError(
                        f"{host_of(real)}: download timed out after {_LONGEST_S:.0f} s", hint=REACH
                    )
                take(chunk)
                hashed.update(chunk)
                size += len(chunk)
        return Fetched(sha256=hashed.hexdigest(), size=size)

    @contextmanager
    def _open(self, real: str) -> Iterator[Iterator[bytes]]:
        parts = urlsplit(real)
        if parts.scheme == "file":
            with _file_chunks(Path(unquote(parts.path))) as chunks:
                yield chunks
            return
        with self._client.open("GET", real) as response:
            words = f"answers {response.status} {response.reason}"
            raise_for_transient(response, words)
            if not 200 <= response.status < 300:
                raise MissingError(f"{host_of(real)} {words}", hint=REACH)
            yield self._client.chunks(response)


@contextmanager
def _file_chunks(path: Path) -> Iterator[Iterator[bytes]]:
    try:
        with path.open("rb") as file:
            yield iter(partial(file.read, _CHUNK), b"")
    except FileNotFoundError as error:
        raise MissingError(f"no file {path}", hint="correct mirror.prefixes in site.toml") from error
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error
