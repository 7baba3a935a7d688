"""Parsing of sizes and durations."""

import pytest

from builder.units import parse_size, parse_span


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500M", 500 * 10**6),
        ("20G", 20 * 10**9),
        ("20GB", 20 * 10**9),
        ("20 gb", 20 * 10**9),
        ("1.5T", 1.5 * 10**12),
        ("20GiB", 20 * 2**30),
        ("64ki", 64 * 2**10),
        ("12B", 12),
    ],
)
def test_size_is_parsed_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "20", "G", "-1G", "20X", "20iB", "1e9", "nan", "20GBs", "1,5G"])
def test_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not a size; write 500M, 20G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("36h", 129600), ("14d", 1209600), ("2w", 1209600), ("0d", 0)]
)
def test_duration_is_parsed_as_seconds(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "14", "d", "-1d", "14 days", "14D", "1mo", "inf"])
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not a duration; write 90m, 36h, 14d"):
        parse_span(text)
