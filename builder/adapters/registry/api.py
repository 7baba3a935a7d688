"""The HTTP API of one registry: log-in by token or password, and refusals in the registry's own words.

Knows the registries' error documents; must not know what a blob or a manifest is for.
"""

import base64
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from builder.adapters.host.http import Client, raise_for_transient
from builder.adapters.host.network import Network, is_loopback
from builder.errors import FactoryError, IntegrityError, MissingError, PublishError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_LARGEST_CHUNKS = 8  # MiB of what is no blob; the specification lets registries refuse manifests over 4
_HINTS = {
    "NAME_UNKNOWN": "create it first, as in: aws ecr create-repository --repository-name {repository}",
    "TAG_INVALID": "tags are immutable there: publish under a tag that is not taken",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """User name and password for a registry."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(host: str, *, config: Path | None = None) -> Credentials | None:
    """Read what `docker login` stored for a registry; credential helpers are not asked."""
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
            f"{path}: the engine's log-ins cannot be read ({error})", hint=f"docker login {host}"
        ) from error
    if not secrets:
        return None
    username, _, password = secrets[0].partition(":")
    return Credentials(username=username, password=password)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request to a registry; `about` names it in messages, `body` may be read more than once."""

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
    """An expected answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.body)
        except ValueError:
            document = None
        return document if isinstance(document, dict) else {}


def origin_of(host: str) -> str:
    """The URL of a registry: by https, unless it is on this machine."""
    return f"{'http' if is_loopback(urlsplit(f'//{host}').hostname or '') else 'https'}://{host}"


class Api:
    """Requests to one registry; threads may share it."""

    def __init__(
        self,
        host: str,
        *,
        network: Network | None = None,
        credentials: Credentials | None = None,
        cancelled: threading.Event | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.host = host
        self.origin = origin_of(host)
        self.http = Client(
            network or Network.from_environment(),
            failure=PublishError,
            hint=f"see whether it is well, then run the command again: curl -i {self.origin}/v2/",
            cancelled=cancelled,
            say=say,
        )
        self._credentials = credentials
        self._basic = ""  # shown once the registry has asked for it
        self._tokens: dict[tuple[str, bool], str] = {}  # by repository, and whether they let us write

    def send(self, request: Request) -> Response:
        """The answer to a request, which is repeated while its failures are transient."""
        return self.http.retry(self._about(request), lambda: self.send_once(request))

    def send_once(
        self, request: Request, *, consume: Callable[[Iterator[bytes]], None] | None = None
    ) -> Response:
        """The answer to one request; `consume` is given the body of a 200 in chunks."""
        for may_log_in in (True, False):
            with self.http.open(
                request.method,
                urljoin(self.origin, request.path),
                origin=self.origin,
                headers={**request.headers, **self._authorization(request)},
                body=request.body() if request.body else None,
            ) as response:
                if response.status == 401 and may_log_in and self._log_in(request, response):
                    continue
                if consume is not None and response.status == 200:
                    consume(self.http.chunks(response))
                    return Response(status=200, headers=response.headers, body=b"")
                return self._read(request, response)
        raise AssertionError("the second round always returns or raises")

    def _about(self, request: Request) -> str:
        where = f"{self.host}/{request.repository}" if request.repository else self.host
        return f"{where}: {request.about}"

    def _read(self, request: Request, response: "BaseHTTPResponse") -> Response:
        answer = Response(status=response.status, headers=response.headers, body=self._body(response))
        if response.status in request.expect:
            return answer
        code, words = _explanation(answer)
        raise_for_transient(response, f"the registry answered {words}")
        raise self._refusal(request, answer, code, f"{self._about(request)}: the registry answered {words}")

    def _body(self, response: "BaseHTTPResponse") -> bytes:
        return b"".join(islice(self.http.chunks(response), _LARGEST_CHUNKS))

    def _refusal(self, request: Request, answer: Response, code: str, message: str) -> FactoryError:
        if answer.status in (401, 403):
            user = f"user {self._credentials.username}" if self._credentials else "nobody is logged in"
            return MissingError(f"{message} ({user})", hint=f"docker login {self.host}")
        if code == "DIGEST_INVALID":
            return IntegrityError(
                message,
                hint="bytes changed on the way or on this disk: remove the stored layer, run again",
            )
        hint = _HINTS.get(code, "").format(repository=request.repository)
        return PublishError(message, hint=hint or f"see the registry's answer: curl -i {self.origin}/v2/")

    def _authorization(self, request: Request) -> dict[str, str]:
        shown = self._tokens.get((request.repository, request.writes), self._basic)
        return {"Authorization": shown} if shown else {}

    def _log_in(self, request: Request, response: "BaseHTTPResponse") -> bool:
        """True if there is a new token or password to show, as a challenge of the registry asks for."""
        self._body(response)  # the connection of an answer that was read is kept
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
            self._basic = self._credentials.basic
            return True
        return False

    def _token(self, request: Request, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        is_secure = self.origin.startswith("https:")
        if urlsplit(realm).scheme != "https" and (is_secure or urlsplit(realm).scheme != "http"):
            raise PublishError(
                f"{self.host}: the registry sends us to {realm!r} to log in, which is not https",
                hint=f"see what it asks: curl -i {self.origin}/v2/",
            )
        scopes = [*challenge.get("scope", "").split(), *request.scopes]
        query = [("service", challenge.get("service", "")), *(("scope", scope) for scope in scopes)]
        asked = Request(
            method="GET",
            path=f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}",
            about=f"log-in for {request.about}",
            repository=request.repository,
        )
        login = {"Authorization": self._credentials.basic} if self._credentials else {}
        with self.http.open("GET", asked.path, headers=login) as response:
            document = self._read(asked, response).json()
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise PublishError(
                f"{self.host}: {urlsplit(realm).netloc} gave no token", hint=f"docker login {self.host}"
            )
        return token


def _explanation(answer: Response) -> tuple[str, str]:
    """The registry's error code, and its status with its message."""
    errors = answer.json().get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = str(first.get("code", ""))
    message = str(first.get("message", "")) or answer.body.decode(errors="replace").strip()[:200]
    known = {status.value: status.phrase for status in HTTPStatus}
    words = ": ".join(part for part in (code, message) if part) or known.get(answer.status, "")
    return code, f"{answer.status} {words}".strip()
