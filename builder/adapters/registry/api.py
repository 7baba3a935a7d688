"""HTTP API of a registry: login by token or password, and errors with the registry's own message.

Knows the error documents of registries; must not know the purpose of blobs and manifests.
"""

import base64
import json
import os
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit

from builder.adapters.host.http import SILENCE_S, Client, basic, raise_for_transient
from builder.adapters.host.network import Network, is_loopback
from builder.errors import FactoryError, IntegrityError, MissingError, PublishError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_LIMIT = 8 << 20  # bytes of a response; registries may refuse manifests over 4 MiB
# URLs with a user, backslash or space do not match, because URL parsers disagree about their host.
_REALM = re.compile(
    r"(?P<origin>(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?)"
    r"(?:[/?][!-\[\]-~]*)?"
)
_HINTS = {
    "NAME_UNKNOWN": "create the repository; in ECR: aws ecr create-repository --repository-name {repository}",
    "TAG_INVALID": "the repository has immutable tags: publish under a new tag",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """User name and password for a registry."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        return basic(f"{self.username}:{self.password}")


class Login(Protocol):
    """Login to a registry; its values may change while it is used, because some expire."""

    @property
    def username(self) -> str: ...

    @property
    def basic(self) -> str: ...


def find_credentials(host: str, *, config: Path | None = None) -> Credentials | None:
    """Return the credentials that `docker login` stored for a registry, or None; skip credential helpers."""
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    path = config or Path(folder) / "config.json"
    try:
        logins = json.loads(path.read_bytes()).get("auths", {})
        entries = [logins[key] for key in (host, f"https://{host}", f"https://{host}/v1/") if key in logins]
        secrets = [base64.b64decode(entry["auth"]).decode() for entry in entries if entry.get("auth")]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise MissingError(
            f"{path}: cannot read the stored logins ({error})", hint=f"docker login {host}"
        ) from error
    if not secrets:
        return None
    username, _, password = secrets[0].partition(":")
    return Credentials(username=username, password=password)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Request to a registry; `about` names it in messages, `body` may be called again for a retry."""

    method: str
    path: str
    about: str
    repository: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Iterator[bytes]] | None = None
    expect: tuple[int, ...] = (200,)
    scopes: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD")


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """Response with an expected status and its complete body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        return document if isinstance(document, dict) else {}


def origin_of(host: str) -> str:
    """Return the base URL of a registry: https, or http if it is on this machine."""
    return f"{'http' if is_loopback(urlsplit(f'//{host}').hostname or '') else 'https'}://{host}"


class Api:
    """Thread-safe client of one registry's HTTP API."""

    def __init__(
        self,
        host: str,
        *,
        network: Network | None = None,
        credentials: Login | None = None,
        cancelled: threading.Event | None = None,
        say: Callable[[str], None] = lambda _: None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.host = host
        self.origin = origin_of(host)
        network = network or Network.from_environment()
        self._token_hosts = network.token_hosts
        self.http = Client(
            network,
            failure=PublishError,
            hint=f"check the registry, then re-run the command: curl -i {self.origin}/v2/",
            cancelled=cancelled,
            say=say,
            silence_s=silence_s,
        )
        self._credentials = credentials
        self._is_basic = False  # whether the registry has asked for the password itself
        self._tokens: dict[tuple[str, bool], str] = {}  # by (repository, is writable)

    def send(self, request: Request) -> Response:
        """Send a request, with retries, and return its response."""
        return self.http.retry(self._about(request), lambda: self.send_once(request))

    def send_once(self, request: Request) -> Response:
        """Send a request once and return its response."""
        for may_log_in in (True, False):
            with self.http.open(
                request.method,
                self.http.resolve(self.origin, request.path),
                origin=self.origin,
                headers={**request.headers, **self._authorization(request)},
                body=request.body() if request.body else None,
            ) as response:
                if response.status == 401 and may_log_in and self._log_in(request, response):
                    continue
                return self._read(request, response)
        raise AssertionError("the second round always returns or raises")

    def _about(self, request: Request) -> str:
        where = f"{self.host}/{request.repository}" if request.repository else self.host
        return f"{where}: {request.about}"

    def _read(self, request: Request, reply: "BaseHTTPResponse") -> Response:
        response = Response(status=reply.status, headers=reply.headers, body=self._body(reply))
        if response.status in request.expect:
            return response
        code, words = _explanation(response)
        raise_for_transient(reply, f"the registry answered {words}")
        raise self._refusal(request, response, code, f"{self._about(request)}: the registry answered {words}")

    def _body(self, response: "BaseHTTPResponse") -> bytes:
        """Return the body of a response, cut off at the limit `_LIMIT`."""
        body = bytearray()
        for chunk in self.http.chunks(response):
            body += chunk[: _LIMIT - len(body)]
            if len(body) == _LIMIT:
                break
        return bytes(body)

    def _refusal(self, request: Request, response: Response, code: str, message: str) -> FactoryError:
        if response.status in (401, 403):
            user = f"user {self._credentials.username}" if self._credentials else "not logged in"
            return MissingError(f"{message} ({user})", hint=f"docker login {self.host}")
        if code == "DIGEST_INVALID":
            return IntegrityError(
                message,
                hint="the blob was corrupted: delete the stored blobs with builder clean --max-size 0 --yes",
            )
        hint = _HINTS.get(code, "").format(repository=request.repository)
        return PublishError(message, hint=hint or f"check the registry: curl -i {self.origin}/v2/")

    def _authorization(self, request: Request) -> dict[str, str]:
        header = self._tokens.get((request.repository, request.writes), "")
        if not header and self._is_basic and self._credentials:
            header = self._credentials.basic
        return {"Authorization": header} if header else {}

    def _log_in(self, request: Request, response: "BaseHTTPResponse") -> bool:
        """Store the token or password that a 401 response asks for; return True if there is one."""
        self._body(response)  # read it to the end, so that the connection is kept
        challenges = {
            scheme.lower(): parameters
            for scheme, _, parameters in (
                challenge.partition(" ") for challenge in response.headers.getlist("WWW-Authenticate")
            )
        }
        if "bearer" in challenges:
            token = self._token(request, dict(re.findall(r'(\w+)="([^"]*)"', challenges["bearer"])))
            self._tokens[request.repository, request.writes] = f"Bearer {token}"
            return True
        if "basic" in challenges and self._credentials is not None:
            self._is_basic = True
            return True
        return False

    def _token(self, request: Request, challenge: Mapping[str, str]) -> str:
        realm = self._require_token_server(challenge.get("realm", ""))
        scopes = [*challenge.get("scope", "").split(), *request.scopes]
        query = [("service", challenge.get("service", "")), *(("scope", scope) for scope in scopes)]
        token_request = Request(
            method="GET",
            path=f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}",
            about=f"login for {request.about}",
            repository=request.repository,
        )
        login = {"Authorization": self._credentials.basic} if self._credentials else {}
        with self.http.open("GET", token_request.path, headers=login, follow=False) as response:
            if target := response.headers.get("Location"):
                raise PublishError(
                    f"{self.host}: the token server {urlsplit(realm).netloc} redirects to {target!r};"
                    " a login is never redirected",
                    hint=f"curl -i {shlex.quote(realm)}",
                )
            document = self._read(token_request, response).json()
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise PublishError(
                f"{self.host}: {urlsplit(realm).netloc} returned no token", hint=f"docker login {self.host}"
            )
        return token

    def _require_token_server(self, realm: str) -> str:
        """Return the URL of the token server; raise PublishError if it must not receive the login."""
        match = _REALM.fullmatch(realm)
        hint = f"check its WWW-Authenticate header: curl -i {self.origin}/v2/"
        if match is None:
            reason = "which is not a plain https URL"
        elif match["origin"] == self.origin:
            return realm
        elif match["scheme"] != "https":
            reason = "which is another server and not https"
        elif self._credentials and not self._trusts(match["host"].lower()):
            reason = "which is outside of the registry's domain"
            hint += f"; if you trust that server: mirror.token_hosts = [{match['host']!r}] in site.toml"
        else:
            return realm
        message = f"{self.host}: the registry wants the login at {realm!r}, {reason}"
        raise PublishError(message, hint=hint)

    def _trusts(self, server: str) -> bool:
        own = urlsplit(self.origin).hostname or ""
        return server in self._token_hosts or in_domain_of(server, own)


def in_domain_of(server: str, registry: str) -> bool:
    """True if a host is the registry's host, a subdomain of that host, or in the same parent domain."""
    if server == registry or server.endswith(f".{registry}"):
        return True
    labels = registry.split(".")[1:]
    is_suffix = len(labels) == 2 and len(labels[-1]) == 2 and len(labels[0]) <= 3  # such as co.uk
    if len(labels) < 2 or is_suffix or labels[-1].isdigit():
        return False
    return f".{server}".endswith("." + ".".join(labels))


def _explanation(response: Response) -> tuple[str, str]:
    """Return the registry's error code, and the status with code and message as text."""
    errors = response.json().get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = str(first.get("code", ""))
    message = str(first.get("message", "")) or response.body.decode(errors="replace").strip()[:200]
    known = {status.value: status.phrase for status in HTTPStatus}
    words = ": ".join(part for part in (code, message) if part) or known.get(response.status, "")
    return code, f"{response.status} {words}".strip()
