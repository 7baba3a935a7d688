"""Detection of URLs that name a server on this machine."""

import pytest

from builder.adapters.host.network import is_local_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:5000/path", True),
        ("http://localhost:5000", True),
        ("https://ec2.127.0.0.1.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://127.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("https://example.com/127.0.0.1", False),
        ("https://example.com/?127.0.0.1", False),
        ("http://localhost.example.com", False),
        ("http://[::1", False),
        ("", False),
        ("123456789012", False),
    ],
)
def test_only_addresses_of_this_machine_are_local(url: str, expected: bool) -> None:
    assert is_local_url(url) is expected
