"""Fetching over the network with the standard library alone, for modules that run on the machine.

A mirror replaces the beginning of an address and is trusted no more than its origin; proxies and certificates
are those of the process environment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import shutil
import threading
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import BinaryIO

TRIES = 3
TIMEOUT_S = 60
CHUNK_BYTES = 1 << 20
# Answers that another try may change.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Refused(Exception):
    """Why a file cannot be had; `fields` go into the result of the module."""

    def __init__(self, message: str, **fields: str) -> None:
        super().__init__(message)
        self.fields = fields


class Passing(Exception):
    """A failure that may be gone at the next try."""


def rewrite(url: str, mirrors: dict[str, str]) -> str:
    fitting = max((prefix for prefix in mirrors if url.startswith(prefix)), key=len, default="")
    return mirrors[fitting] + url[len(fitting) :] if fitting else url


def sum_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def fetch(url: str, sha256: str, target: Path, mirrors: dict[str, str]) -> str:
    """Puts the locked file at `target`, in one step; the address it came from."""
    place = rewrite(url, mirrors)
    if not place.startswith(("https://", "http://", "file://")):
        raise Refused(f"{place}: not an address of http, https or file", url=url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            actual = read_patiently(place, file)
        if actual != sha256.lower():
            raise Refused(
                f"{url} does not match its lock: expected sha256 {sha256}, got {actual}"
                + (f" from {place}" if place != url else ""),
                url=url,
                expected=sha256,
                actual=actual,
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return place


def read_patiently(place: str, file: BinaryIO) -> str:
    """Writes what the address answers; its sum."""
    patience = threading.Event()
    for attempt in range(1, TRIES + 1):
        file.seek(0)
        file.truncate()
        try:
            return read_once(place, file)
        except Passing as error:
            if attempt == TRIES:
                raise Refused(f"{place}: {error} ({TRIES} tries)", url=place) from error
            patience.wait(attempt**2)  # a server that is busy is not less so at once
    raise AssertionError("unreachable")


def read_once(place: str, file: BinaryIO) -> str:
    request = urllib.request.Request(place, headers={"User-Agent": "image-factory"})
    found, received = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            wanted = length_of(answer.headers)
            refuse_if_too_large(place, wanted, file)
            while chunk := answer.read(CHUNK_BYTES):
                found.update(chunk)
                received += len(chunk)
                write(file, chunk)
    except urllib.error.HTTPError as error:
        problem = f"the server answered {error.code} {error.reason}"
        if error.code in PASSING:
            raise Passing(problem) from error
        raise Refused(f"{place}: {problem}", url=place) from error
    except urllib.error.URLError as error:
        raise Passing(f"no answer: {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise Passing(f"the connection broke: {error or type(error).__name__}") from error
    if wanted is not None and received < wanted:
        raise Passing(f"the connection broke after {received} of {wanted} bytes")
    return found.hexdigest()


def length_of(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def refuse_if_too_large(place: str, wanted: int | None, file: BinaryIO) -> None:
    free = shutil.disk_usage(file.fileno()).free
    if wanted is not None and wanted > free:
        raise Refused(f"{place}: has {wanted} bytes, and the disk has room for {free}", url=place)


def write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise Refused(f"cannot keep the download: {error.strerror}") from error


def dearmor(key: bytes) -> bytes:
    """The bytes of an OpenPGP key, of every block in it where it is armored."""
    if b"-----BEGIN PGP" not in key:
        return key
    found = b""
    for block in key.decode("ascii", "replace").split("-----BEGIN PGP PUBLIC KEY BLOCK-----")[1:]:
        body = block.split("-----END", 1)[0].replace("\r", "")
        lines = body.split("\n\n", 1)[-1].split()
        try:
            found += base64.b64decode("".join(line for line in lines if not line.startswith("=")))
        except binascii.Error as error:
            raise Refused(f"the key is damaged: {error}") from error
    return found
