"""Decide which HTTP requests a rehearsal answers.

A rehearsal answers local requests that are signed (AWS Signature Version 4) with a key that it gave out, for
the services that it serves. Control requests carry the rehearsal's secret key. All other requests are refused
before moto or the proxy acts on them. Knows no server.
"""

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import string
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, urlsplit

CONTROL = "/_rehearsal/"
SERVICES = ("ec2", "ecr", "iam", "kms", "ram", "servicequotas", "ssm", "sts")
BODY_LIMIT = 64 << 20
_MOTO_CONTROL = "moto-api"
# moto serves instance metadata with credentials at these paths, without regard to the signed service.
_METADATA = "latest"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>\w+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)"
    r"/aws4_request,\s*SignedHeaders=(?P<signed>[a-z0-9;-]+),\s*Signature=(?P<signature>[0-9a-f]{64})",
    re.ASCII,
)
# Words in the path or the X-Amz-Target header of calls for which moto would start containers or code.
_STARTING = {
    "batch": ("submitjob",),
    "ecs": ("runtask", "starttask", "createservice", "updateservice"),
    "lambda": ("invocations", "invoke-async"),
}


class Refused(Exception):
    """Raised for a request that the rehearsal does not answer; `service` selects the format of the error."""

    def __init__(self, code: str, message: str, *, service: str = "", status: int = 403) -> None:
        super().__init__(message)
        self.code, self.message, self.service, self.status = code, message, service, status


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """AWS credentials; `token` is set only for temporary credentials of a session."""

    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def random(cls) -> Self:
        letters = string.ascii_uppercase + "234567"
        access = "AKIA" + "".join(secrets.choice(letters) for _ in range(16))
        return cls(access=access, secret=secrets.token_urlsafe(30))


FindKey = Callable[[str], Key | None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """An HTTP request as it arrived: `target` is path and query, header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str]) -> Self:
        return cls(
            method=method, target=target, headers={name.lower(): value for name, value in headers.items()}
        )

    def header(self, name: str) -> str:
        return self.headers.get(name, "").strip()

    @property
    def body_size(self) -> int:
        """Return the declared size of the body; raise Refused if it is invalid or above the limit."""
        text = self.header("content-length") or "0"
        if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > BODY_LIMIT:
            raise Refused("RequestEntityTooLarge", f"Content-Length {text[:20]} is refused", status=413)
        return int(text)

    @property
    def first_folder(self) -> str:
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[0]

    @property
    def is_control(self) -> bool:
        return self.target.startswith(CONTROL) or self.first_folder.startswith(_MOTO_CONTROL)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The check of all requests to one rehearsal.

    `key` is the rehearsal's own key; `find_key` returns keys of further identities and of sessions, which the
    rehearsed IAM and STS gave out.
    """

    key: Key
    services: Collection[str] = SERVICES
    find_key: FindKey = lambda _: None

    def check(self, request: Request, read_body: Callable[[], bytes]) -> bytes:
        """Return the body of a request that may be answered; raise Refused for all other requests.

        The body is read only if the request names a known key or carries the rehearsal's secret key.
        """
        _require_local(request)
        if request.is_control:
            self._require_secret(request)
            return read_body()
        words = _AUTHORIZATION.fullmatch(request.header("authorization"))
        if words is None:
            raise Refused("MissingAuthenticationToken", "the request is not signed", status=403)
        key = self._key_of(words["key"], request, words["service"])
        self._require_served(request, words["service"])
        body = read_body()
        if not hmac.compare_digest(_signature(request, words, key, body), words["signature"]):
            raise Refused(
                "SignatureDoesNotMatch", "the request has a wrong signature", service=words["service"]
            )
        return body

    def _require_secret(self, request: Request) -> None:
        expected = f"Bearer {self.key.secret}".encode()
        if not hmac.compare_digest(request.header("authorization").encode(), expected):
            raise Refused("AccessDenied", "a control request needs the key of the rehearsal")

    def _key_of(self, name: str, request: Request, service: str) -> Key:
        own = hmac.compare_digest(name.encode(), self.key.access.encode())
        key = self.key if own else self.find_key(name)
        token = request.header("x-amz-security-token")
        if key is None or not hmac.compare_digest(token.encode(), key.token.encode()):
            code = "AuthFailure" if service == "ec2" else "InvalidClientTokenId"
            raise Refused(code, "this rehearsal did not give out the access key or token", service=service)
        return key

    def _require_served(self, request: Request, service: str) -> None:
        if service not in self.services or request.first_folder == _METADATA:
            raise Refused(
                "AccessDeniedException",
                f"the rehearsal does not serve '{service}'; to add it: builder rehearse down, then"
                f" builder rehearse up --services {service}",
                service=service,
            )
        asked = f"{unquote(request.target)} {request.header('x-amz-target')}".lower()
        if any(word in asked for word in _STARTING.get(service, ())):
            raise Refused(
                "AccessDeniedException", "a rehearsal starts no containers or code for calls", service=service
            )


def _require_local(request: Request) -> None:
    """Raise Refused for requests of web pages and for paths that servers parse in different ways."""
    try:
        host = urlsplit(f"//{request.header('host')}").hostname or ""
    except ValueError:
        host = ""
    is_local = host == "localhost"
    with suppress(ValueError):
        is_local = is_local or ipaddress.ip_address(host).is_loopback
    if not is_local or "origin" in request.headers:
        raise Refused("AccessDenied", "the request is not for a loopback address, or comes from a web page")
    if not request.target.startswith("/") or request.target.startswith("//") or "\\" in request.target:
        raise Refused("AccessDenied", "the request's path is invalid")


def _signature(request: Request, words: re.Match[str], key: Key, body: bytes) -> str:
    """Return the signature that the request must have, as Signature Version 4 defines it."""
    url = urlsplit(request.target)
    service, names = words["service"], words["signed"].split(";")
    path = url.path if service == "s3" else quote(url.path, safe="/~")
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in url.query.split("&") if pair)
    canonical = [
        request.method,
        path,
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(request.header(name).split())}" for name in names),
        "",
        words["signed"],
        hashlib.sha256(body).hexdigest(),
    ]
    if "host" not in names:
        return ""
    scope = (words["date"], words["region"], service, "aws4_request")
    hashed = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", request.header("x-amz-date"), "/".join(scope), hashed))
    signing = f"AWS4{key.secret}".encode()
    for word in (*scope, text):
        signing = hmac.digest(signing, word.encode(), "sha256")
    return signing.hex()


def refusal_body(refused: Refused) -> tuple[str, bytes]:
    """Return (content type, body) of a refusal as clients of the service expect it."""
    error = f"<Code>{refused.code}</Code><Message>{refused.message}</Message>"
    if refused.service == "ec2":
        return "text/xml", f"<Response><Errors><Error>{error}</Error></Errors></Response>".encode()
    if refused.service in ("autoscaling", "cloudformation", "iam", "sts"):
        return "text/xml", f"<ErrorResponse><Error>{error}</Error></ErrorResponse>".encode()
    answer = {"__type": refused.code, "message": refused.message, "error": refused.message}
    return "application/x-amz-json-1.1", json.dumps(answer).encode()
