"""Downloads of locked files for modules that run on the machine, with the standard library only.

A mirror replaces the prefix of a URL; its files are verified like those of the origin. Proxies and
certificates come from the process environment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import json
import os
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import BinaryIO

TRIES = 3
TIMEOUT_S = 60
LONGEST_S = 3600  # 5 GB over 12 Mbit/s, with all retries
CHUNK_BYTES = 1 << 20
# Path of the play's stdout on this machine; unset on machines that are reached over SSH.
PROGRESS = "FACTORY_PROGRESS"
EVERY_S = 1.0  # between two events about the progress of a download
# HTTP status codes that are retried.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(Exception):
    """Failed download; `fields` are added to the result of the module."""

    def __init__(self, message: str, **fields: str) -> None:
        super().__init__(message)
        self.fields = fields


class TransientError(Exception):
    """Retryable failure."""


class Progress:
    """Writes progress events of a download to the play's stdout if the download takes over a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = os.environ.get(PROGRESS, "")
        self._clock = clock
        self._next_s = clock() + EVERY_S
        self._is_shown = False

    def __call__(self, done: int, total: int) -> None:
        is_end = self._is_shown and done == total
        if not self._path or not total or (self._clock() < self._next_s and not is_end):
            return
        self._next_s, self._is_shown = self._clock() + EVERY_S, not is_end
        line = json.dumps({"event": "progress", "done": done, "total": total}) + "\n"
        with suppress(OSError), Path(self._path).open("ab", buffering=0) as play:
            play.write(line.encode())


def rewrite(url: str, mirrors: dict[str, str]) -> str:
    prefix = max((known for known in mirrors if url.startswith(known)), key=len, default="")
    return mirrors[prefix] + url[len(prefix) :] if prefix else url


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def deadline(source: str) -> Iterator[None]:
    """Raise FetchError if the with block takes longer than LONGEST_S, even while a read blocks."""

    def end(_number: int, _frame: object) -> None:
        raise FetchError(f"{source}: the download did not end within {LONGEST_S} s", url=source)

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fetch(url: str, sha256: str, target: Path, mirrors: dict[str, str], size: int | None = None) -> str:
    """Download the locked file to `target` atomically and return the URL that it was read from.

    `size` is the locked number of bytes; the download fails once it has received more.
    """
    source = rewrite(url, mirrors)
    if not source.startswith(("https://", "http://", "file://")):
        raise FetchError(f"{source}: not an http, https or file URL", url=url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file, deadline(source):
            actual = read_with_retries(source, file, size)
        if actual != sha256.lower():
            raise FetchError(
                f"{url} does not match its lock: expected sha256 {sha256}, got {actual}"
                + (f" from {source}" if source != url else ""),
                url=url,
                expected=sha256,
                actual=actual,
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return source


def read_with_retries(source: str, file: BinaryIO, size: int | None) -> str:
    """Write the response to `file`, with retries, and return its SHA-256 digest."""
    pause = threading.Event()
    for attempt in range(1, TRIES + 1):
        file.seek(0)
        file.truncate()
        try:
            return read_once(source, file, size)
        except TransientError as error:
            if attempt == TRIES:
                raise FetchError(f"{source}: {error} ({TRIES} tries)", url=source) from error
            pause.wait(attempt**2)  # give a busy server time to recover
    raise AssertionError("unreachable")


def read_once(source: str, file: BinaryIO, size: int | None) -> str:
    request = urllib.request.Request(source, headers={"User-Agent": "image-factory"})
    digest, received, progress = hashlib.sha256(), 0, Progress()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            expected_bytes = length_of(answer.headers)
            refuse_if_too_large(source, expected_bytes, file)
            while chunk := answer.read(CHUNK_BYTES):
                digest.update(chunk)
                received += len(chunk)
                if size is not None and received > size:
                    raise FetchError(f"{source}: is larger than the locked {size} bytes", url=source)
                write(file, chunk)
                progress(received, expected_bytes or size or 0)
    except urllib.error.HTTPError as error:
        reason = f"the server answered {error.code} {error.reason}"
        if error.code in TRANSIENT:
            raise TransientError(reason) from error
        raise FetchError(f"{source}: {reason}", url=source) from error
    except urllib.error.URLError as error:
        raise TransientError(f"no answer: {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise TransientError(f"the connection broke: {error or type(error).__name__}") from error
    if expected_bytes is not None and received < expected_bytes:
        raise TransientError(f"the connection broke after {received} of {expected_bytes} bytes")
    return digest.hexdigest()


def length_of(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def refuse_if_too_large(source: str, expected_bytes: int | None, file: BinaryIO) -> None:
    free = shutil.disk_usage(file.fileno()).free
    if expected_bytes is not None and expected_bytes > free:
        raise FetchError(
            f"{source}: has {expected_bytes} bytes, but the disk has only {free} bytes free", url=source
        )


def write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise FetchError(f"cannot write the download: {error.strerror}") from error


def dearmor(key: bytes) -> bytes:
    """Return the binary form of an OpenPGP key; an armored key may have several blocks."""
    if b"-----BEGIN PGP" not in key:
        return key
    found = b""
    for block in key.decode("ascii", "replace").split("-----BEGIN PGP PUBLIC KEY BLOCK-----")[1:]:
        body = block.split("-----END", 1)[0].replace("\r", "")
        lines = body.split("\n\n", 1)[-1].split()
        try:
            found += base64.b64decode("".join(line for line in lines if not line.startswith("=")))
        except binascii.Error as error:
            raise FetchError(f"the OpenPGP key is damaged: {error}") from error
    return found
