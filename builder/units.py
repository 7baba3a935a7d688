"""Parse sizes such as 20G, 1.5TB or 512MiB and durations such as 14d, 36h or 2w."""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int:
    """Return bytes; G and GB are 1000³, GiB and Gi 1024³. Only 0 may lack a unit."""
    found = _SIZE.fullmatch(text.strip())
    if not found or (found[3] and not found[2]) or (text.strip()[-1:].isdigit() and float(found[1])):
        raise ValueError(f"'{text}' is not a size; write 500M, 20G, 1.5T or 20GiB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()])


def parse_span(text: str) -> float:
    """Return seconds; units are minutes (m), hours (h), days (d) and weeks (w)."""
    found = _SPAN.fullmatch(text.strip())
    if not found:
        raise ValueError(f"'{text}' is not a duration; write 90m, 36h, 14d or 2w")
    return float(found[1]) * _SECONDS[found[2]]
