"""Find the package lists and packages that the signature of a package archive covers.

Reads files that a build container left, so every file may be forged.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

from builder.adapters.host import process

KEYRINGS = Path("/usr/share/keyrings")
_RELEASE = "InRelease"
_VERIFY_S = 60.0
_SECTION = re.compile(r"^SHA256:\n((?: .*\n?)+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """The verified content of an InRelease file: its date, and digests of lists by apt's file name."""

    date: datetime
    lists: Mapping[str, str]


def keyrings(folder: Path = KEYRINGS) -> list[Path]:
    """Return the keyring files on this machine for the distributions' package archives."""
    return sorted(folder.glob("*-archive-keyring.gpg"))


def read_release(content: bytes, name: str, scratch: Path, keys: Sequence[Path]) -> Release | None:
    """Return the signed content of an InRelease file; None if no key of this machine has signed it."""
    signed, verified = scratch / "release", scratch / "verified"
    signed.write_bytes(content)
    verified.unlink(missing_ok=True)
    argv = ["gpgv", *(word for key in keys for word in ("--keyring", str(key)))]
    argv += ["--status-fd", "1", "--output", str(verified), str(signed)]
    done = process.run(argv, timeout_s=_VERIFY_S)
    words = done.output.split()
    if "VALIDSIG" not in words or "BADSIG" in words or not verified.is_file():
        return None
    text = verified.read_text(encoding="utf-8", errors="replace")
    date, section = re.search(r"^Date: *(.+)$", text, re.MULTILINE), _SECTION.search(text)
    if not date or not section:
        return None
    try:
        when = parsedate_to_datetime(date[1])
    except ValueError:
        return None
    prefix = name.removesuffix(_RELEASE)
    rows = (line.split() for line in section[1].splitlines())
    lists = {f"{prefix}{row[2].replace('/', '_')}": row[0] for row in rows if len(row) == 3}
    return Release(date=when if when.tzinfo else when.replace(tzinfo=UTC), lists=lists)


def names_of(digests: Iterable[str], lists: Iterable[bytes]) -> dict[str, str]:
    """Look up digests in package lists; return apt's file name of each package that was found, by digest."""
    wanted, found = tuple(digests), {}
    for content in lists:
        for digest in wanted:
            at = content.find(f"\nSHA256: {digest}\n".encode())
            if at >= 0:
                start = content.rfind(b"\n\n", 0, at) + 1
                stanza = content[start : content.find(b"\n\n", at)]
                found[digest] = _file_name(stanza.decode(errors="replace"))
    return found


def _file_name(stanza: str) -> str:
    fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[\w-]+: ", line))
    words = (fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", ""))
    return "_".join(quote(word, safe="+~.-").replace("%3A", "%3a") for word in words) + ".deb"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
