"""Patterns for values in the site file: URLs, paths, registries, AWS names. Sends no requests."""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from builder.values import dataclass

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_REPOSITORY = r"(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)"


@dataclass(frozen=True, slots=True)
class Form:
    """Pattern of a value; `words` describes it in the error message `must be {words}`."""

    words: str
    fits: Callable[[str], bool]


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text, re.ASCII) is not None  # compiled at the first use


def _is_url(*schemes: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            parts = urlsplit(text)
            has_host = bool(re.fullmatch(_HOST, parts.netloc.rpartition("@")[2]))
            valid = parts.scheme in schemes and (parts.port is None or parts.port > 0)
        except ValueError:  # a port or an IPv6 address that does not exist
            return False
        is_file = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
        return valid and (has_host or is_file) and not re.search(r"\s", text)

    return fits


def _is_absolute(text: str) -> bool:
    return text.startswith("/")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_proxy(text: str) -> bool:
    return _is_url("http", "https")(text if "://" in text else f"http://{text}") and (
        "://" in text or ":" in text
    )


def _is_snapshot(text: str) -> bool:
    return "{archive}" in text and "{stamp}" in text and ARCHIVE.fits(text)


ARCHIVE = Form("an http, https or file URL", _is_url("http", "https", "file"))
INDEX = Form(
    "an http, https or file URL, or an absolute path",
    lambda text: _is_absolute(text) or ARCHIVE.fits(text),
)
PATH = Form("an absolute path", _is_absolute)
PROXY = Form("http://HOST:PORT, https://HOST:PORT or HOST:PORT", _is_proxy)
SNAPSHOT = Form("a URL that contains {archive} and {stamp}", _is_snapshot)
HOST = Form("HOST or HOST:PORT", _matches(_HOST))
IMAGES = Form("HOST[:PORT]/PATH", _matches(rf"{_HOST}/\S*"))
PUSH = Form(
    "HOST[:PORT][/PATH] in lower case and without https://, ecr or ecr/PATH",
    _matches(rf"{_HOST}{_REPOSITORY}*"),
)
CACHE = Form(
    "HOST[:PORT]/PATH in lower case and without https://",
    _matches(rf"{_HOST}{_REPOSITORY}+"),
)
REGION = Form("a region such as us-east-1", _matches(r"[a-z]{2,4}(?:-[a-z]+){1,2}-\d{1,2}"))
SUBNET = Form("a subnet id such as subnet-0123456789abcdef0", _matches(r"subnet-[0-9a-f]{8,17}"))
INSTANCE_TYPE = Form("an instance type such as m7i.4xlarge", _matches(r"[a-z0-9-]+\.[a-z0-9-]+"))
RESERVATION = Form(
    "open, none, or the id of a capacity reservation such as cr-0123456789abcdef0",
    _matches(r"open|none|cr-[0-9a-f]{8,17}"),
)
GROUP = Form("a security group id such as sg-0123456789abcdef0", _matches(r"sg-[0-9a-f]{8,17}"))
NETWORK = Form("a network such as 203.0.113.0/24", _is_network)
NAME = Form("an IAM name: letters, digits and +=,.@_-", _matches(r"[\w+=,.@-]{1,128}"))
ACCOUNT = Form("an account id of 12 digits", _matches(r"\d{12}"))
ORGANIZATION = Form(
    "the ARN of an organization or organizational unit",
    _matches(
        r"arn:aws[a-z-]*:organizations::\d{12}:(?:organization/o-[a-z0-9]+|ou/o-[a-z0-9]+/ou-[a-z0-9-]+)"
    ),
)
PARAMETER = Form("a parameter prefix such as /image-factory", _matches(r"(?:/[\w.-]+)+"))


def choice(*names: str) -> Form:
    return Form(f"one of {', '.join(names)}", lambda text: text in names)
