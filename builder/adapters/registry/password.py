"""The login of the registry on this machine: a random password, and its hash for `docker-registry`."""

import ctypes
import secrets
import string
from pathlib import Path

from builder.adapters.host import private
from builder.adapters.registry.api import Credentials
from builder.errors import MissingError
from builder.reading import read_text

USER = "builder"
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")
_SALT = f"./{string.ascii_letters}{string.digits}"
_COST = 4  # bcrypt's lowest; a slow hash adds nothing to a random password


def ensure(folder: Path) -> None:
    """Write a password to the file `password` of a folder unless it exists, and its hash to `htpasswd`."""
    if not _read(folder):
        private.write(file_of(folder), f"{secrets.token_urlsafe(24)}\n")
    private.write(hash_file_of(folder), f"{USER}:{_bcrypt(_read(folder))}\n")


def read(folder: Path) -> Credentials:
    password = _read(folder)
    if not password:
        raise MissingError(
            f"{file_of(folder)} has no password", hint="builder registry down, then: builder registry up"
        )
    return Credentials(username=USER, password=password)


def _read(folder: Path) -> str:
    """Return the stored password; "" if the file is missing or damaged."""
    try:
        return read_text(file_of(folder)).strip()
    except (FileNotFoundError, ValueError):
        return ""


def file_of(folder: Path) -> Path:
    return folder / "password"


def hash_file_of(folder: Path) -> Path:
    return folder / "htpasswd"


def _bcrypt(password: str) -> str:
    """Return the bcrypt hash of a password; `docker-registry` accepts no other hash."""
    for name in _LIBRARIES:
        try:
            crypt = ctypes.CDLL(name).crypt
            break
        except OSError:
            continue
    else:
        raise MissingError(f"no library {_LIBRARIES[0]} on this machine", hint="apt-get install libcrypt1")
    crypt.restype = ctypes.c_char_p
    salt = "".join(secrets.choice(_SALT) for _ in range(22))
    found: bytes | None = crypt(password.encode(), f"$2b${_COST:02}${salt}".encode())
    if not found or not found.startswith(b"$2b$"):
        raise MissingError(
            f"{_LIBRARIES[0]} of this machine has no bcrypt", hint="set registry.push in site.toml"
        )
    return found.decode()
