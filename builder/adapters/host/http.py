"""HTTP as registries speak it: log-in, kept connections, proxies, bounded retries, refusals in plain words.

On the standard library alone. Knows status codes and the registries' error documents; must not know what
a blob or a manifest is for.
"""

import base64
import http.client
import ipaddress
import json
import os
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlencode, urljoin, urlsplit

from builder.errors import FactoryError, IntegrityError, Interrupted, MissingError, PublishError

T = TypeVar("T")

_CONNECT_S = 10.0
_ANSWER_S = 60.0
_TRIES = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_BODY_LIMIT = 8 << 20  # of what is no blob; the specification lets registries refuse manifests over 4 MiB
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_PASSING = (408, 429, 500, 502, 503, 504)
_HINTS = {
    "NAME_UNKNOWN": "create it first, as in: aws ecr create-repository --repository-name {repository}",
    "TAG_INVALID": "tags are immutable there: publish under a tag that is not taken",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Who we are to a registry."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(host: str, *, config: Path | None = None) -> Credentials | None:
    """What `docker login` wrote down for a registry; credential helpers are not asked."""
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
    """One thing asked of a registry; `about` names it in messages, `body` may be read more than once."""

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
class Answer:
    """An expected answer, read to its end."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.body)
        except ValueError:
            document = None
        return document if isinstance(document, dict) else {}


class Broken(Exception):
    """A try that failed in a way that may pass; `error` is what it becomes if it does not."""

    def __init__(
        self, reason: str, *, retry_after_s: float = 0.0, error: type[FactoryError] = PublishError
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.error = error


class Wire:
    """Requests to one registry over connections that are kept; threads may share it."""

    def __init__(
        self,
        host: str,
        *,
        credentials: Credentials | None = None,
        cancelled: threading.Event | None = None,
        secure: bool | None = None,
        wait: Callable[[float], bool] | None = None,
        say: Callable[[str], None] | None = None,
        proxy_for: Callable[[str], str] | None = None,
        ca_bundle: Path | None = None,
    ) -> None:
        """`secure` overrides that https is spoken but on loopback; `wait` returns True when cancelled.

        Proxies and certificates are those of the environment where nothing else is said.
        """
        self._proxy_for = proxy_for or _environment_proxy
        self._ca_bundle = ca_bundle
        self._secure = not _is_loopback(urlsplit(f"//{host}").hostname or "") if secure is None else secure
        self.origin = f"{'https' if self._secure else 'http'}://{host}"
        self.host = host
        self._credentials = credentials
        self._cancelled = cancelled or threading.Event()
        self._wait = wait or self._cancelled.wait
        self._say = say or (lambda _text: None)
        self._basic = ""  # shown once the registry has asked for it
        self._tokens: dict[tuple[str, bool], str] = {}  # by repository, and whether they let us write
        self._idle: deque[HTTPConnection] = deque()
        self._has_answered = False

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Interrupted(
                f"{self.host}: the transfer was interrupted",
                hint="run the same command again: what has arrived is not sent twice",
            )

    def ask(self, request: Request) -> Answer:
        where = f"{self.host}/{request.repository}" if request.repository else self.host
        return self.persist(f"{where}: {request.about}", lambda: self.try_once(request))

    def persist(self, about: str, action: Callable[[], T]) -> T:
        """Try an action again, from its beginning, while its failures may pass."""
        attempt = 1
        while True:
            try:
                return action()
            except Broken as broken:
                if attempt == _TRIES or (broken.error is MissingError and not self._has_answered):
                    tried = f" ({attempt} tries)" if attempt > 1 else ""
                    raise broken.error(
                        f"{about}: {broken.reason}{tried}",
                        hint=f"see whether it is well, then run the command again: curl -i {self.origin}/v2/",
                    ) from broken
                pause = broken.retry_after_s or _FIRST_PAUSE_S * 2 ** (attempt - 1)
                pause = min(pause, _LONGEST_PAUSE_S)
                self._say(f"{about}: {broken.reason}; trying again in {pause:g} s ({attempt} of {_TRIES})")
            if self._wait(pause):
                self.check_cancelled()
            attempt += 1

    def try_once(self, request: Request, *, consume: Callable[[HTTPResponse], None] | None = None) -> Answer:
        """Ask once; `consume` reads the body of a 200 as it comes. Raises Broken for what may pass."""
        for may_log_in in (True, False):
            self.check_cancelled()
            with self._exchange(request) as response:
                if response.status == 401 and may_log_in:
                    response.read(_BODY_LIMIT)
                    if self._log_in(request, response.headers):
                        continue
                if consume is not None and response.status == 200:
                    consume(response)
                    return Answer(status=200, headers=response.headers, body=b"")
                return self._judge(request, response)
        raise AssertionError("the second round always returns or raises")

    def _judge(self, request: Request, response: HTTPResponse) -> Answer:
        body = response.read(_BODY_LIMIT)
        if response.length:
            raise Broken(f"the registry broke off its answer {response.length} bytes before the end")
        answer = Answer(status=response.status, headers=response.headers, body=body)
        if response.status in request.expect:
            return answer
        if response.status in _PASSING:
            retry_after = response.headers.get("Retry-After", "")
            raise Broken(
                f"the registry answered {_worded(answer)[1]}",
                retry_after_s=float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else 0.0,
            )
        raise self._refusal(request, answer)

    def _refusal(self, request: Request, answer: Answer) -> FactoryError:
        code, words = _worded(answer)
        where = f"{self.host}/{request.repository}" if request.repository else self.host
        message = f"{where}: {request.about}: the registry answered {words}"
        if answer.status in (401, 403):
            who = f"user {self._credentials.username}" if self._credentials else "nobody is logged in"
            return MissingError(f"{message} ({who})", hint=f"docker login {self.host}")
        if code == "DIGEST_INVALID":
            return IntegrityError(
                message,
                hint="bytes changed on the way or on this disk: remove the stored layer, run again",
            )
        hint = _HINTS.get(code, "").format(repository=request.repository)
        return PublishError(message, hint=hint or f"see what it says itself: curl -i {self.origin}/v2/")

    # Logging in.

    def _authorization(self, request: Request) -> str:
        return self._tokens.get((request.repository, request.writes), self._basic)

    def _log_in(self, request: Request, headers: Message) -> bool:
        """Whether there is something new to show the registry, as one of its challenges asks."""
        challenges = dict(
            challenge.split(" ", 1)
            for challenge in headers.get_all("WWW-Authenticate", [])
            if " " in challenge
        )
        schemes = {scheme.lower(): rest for scheme, rest in challenges.items()}
        if "bearer" in schemes:
            token = self._token(request, dict(re.findall(r'(\w+)="([^"]*)"', schemes["bearer"])))
            self._tokens[request.repository, request.writes] = f"Bearer {token}"
            return True
        if "basic" in schemes and self._credentials is not None:
            self._basic = self._credentials.basic
            return True
        return False

    def _token(self, request: Request, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme != "https" and (self._secure or urlsplit(realm).scheme != "http"):
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
            headers={"Authorization": self._credentials.basic} if self._credentials else {},
        )
        with self._exchange(asked) as response:
            document = self._judge(asked, response).json()
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise PublishError(
                f"{self.host}: {urlsplit(realm).netloc} gave no token", hint=f"docker login {self.host}"
            )
        return token

    # Connections.

    @contextmanager
    def _exchange(self, request: Request) -> Iterator[HTTPResponse]:
        """One answer; its connection is kept only if the answer was read to the end."""
        url = urljoin(self.origin, request.path)
        for _ in range(_MOST_REDIRECTS):
            connection, response = self._send(request, url)
            following = response.headers.get("Location")
            if (
                following is None
                or response.status not in _REDIRECTS
                or request.method not in ("GET", "HEAD")
            ):
                break
            response.close()
            connection.close()
            url = urljoin(url, following)
        else:
            raise PublishError(
                f"{self.host}/{request.repository}: {request.about}: redirected {_MOST_REDIRECTS} times",
                hint=f"see where it sends you: curl -iL {urljoin(self.origin, request.path)}",
            )
        is_reusable = False
        try:
            with _passing_errors():
                yield response
            is_reusable = self._is_own(urlsplit(url)) and response.isclosed() and not response.will_close
        finally:
            if is_reusable:
                self._idle.append(connection)
            else:
                response.close()  # where it ends with its connection, it alone holds the socket
                connection.close()

    def _send(self, request: Request, url: str) -> tuple[HTTPConnection, HTTPResponse]:
        target = urlsplit(url)
        if self._secure and target.scheme != "https":
            raise PublishError(
                f"{self.host}: the registry sends us to {url!r}, which is not https",
                hint="its address is set wrongly behind a proxy: tell who runs it",
            )
        with _passing_errors():
            if self._is_own(target) and (kept := self._take_idle()):
                try:
                    return kept, self._speak(kept, request, target)
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    kept.close()  # kept too long: the registry had hung up before we spoke
                    if request.body is not None:
                        raise
                except BaseException:
                    kept.close()
                    raise
            connection = self._connect(target)
            try:
                return connection, self._speak(connection, request, target)
            except BaseException:
                connection.close()
                raise

    def _take_idle(self) -> HTTPConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _speak(self, connection: HTTPConnection, request: Request, target: SplitResult) -> HTTPResponse:
        headers = dict(request.headers)
        if self._is_own(target) and (authorization := self._authorization(request)):
            headers["Authorization"] = authorization
        path = target.path + (f"?{target.query}" if target.query else "")
        if target.scheme == "http" and (proxy := self._proxy(target)):
            path = target.geturl()
            headers |= _proxy_login(proxy)
        try:
            connection.request(request.method, path, body=self._body(request), headers=headers)
        except (BrokenPipeError, ConnectionResetError) as error:
            # A registry that refuses hangs up in the middle of the body; its reason is worth more than ours.
            try:
                response = connection.getresponse()
            except (OSError, HTTPException):
                raise error from None
        else:
            response = connection.getresponse()
        self._has_answered = True
        return response

    def _body(self, request: Request) -> Iterator[bytes] | None:
        if request.body is None:
            return None

        def chunks(body: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in body:
                self.check_cancelled()
                yield chunk

        return chunks(request.body())

    def _is_own(self, target: SplitResult) -> bool:
        return f"{target.scheme}://{target.netloc}" == self.origin

    def _proxy(self, target: SplitResult) -> SplitResult | None:
        """The proxy to a host; loopback is never asked through one."""
        proxy = "" if _is_loopback(target.hostname or "") else self._proxy_for(target.geturl())
        if not proxy:
            return None
        return urlsplit(proxy if "://" in proxy else f"http://{proxy}")

    def _connect(self, target: SplitResult) -> HTTPConnection:
        proxy = self._proxy(target)
        reached = proxy or target
        host, port = reached.hostname or "", reached.port
        if target.scheme == "https":
            context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR
            if self._ca_bundle:
                context.load_verify_locations(self._ca_bundle)
            connection: HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_S, context=context
            )
            if proxy:
                connection.set_tunnel(target.hostname or "", target.port, _proxy_login(proxy))
        else:
            connection = HTTPConnection(host, port, timeout=_CONNECT_S)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise MissingError(
                f"{target.netloc} shows a certificate that is not trusted here: {error.verify_message}",
                hint="name the CA that signed it: export SSL_CERT_FILE=/path/to/ca.pem",
            ) from error
        except (OSError, HTTPException) as error:
            connection.close()
            through = f" through the proxy {host}" if proxy else ""
            raise Broken(
                f"{target.netloc} cannot be reached{through}: {error}", error=MissingError
            ) from error
        connection.sock.settimeout(_ANSWER_S)
        return connection


@contextmanager
def _passing_errors() -> Iterator[None]:
    """What a network does to a connection, as a reason to try again."""
    try:
        yield
    except TimeoutError as error:
        raise Broken(f"the registry was silent for {_ANSWER_S:g} s") from error
    except (ConnectionError, ssl.SSLError, HTTPException) as error:
        raise Broken(f"the connection broke off ({str(error) or type(error).__name__})") from error


def _worded(answer: Answer) -> tuple[str, str]:
    """The registry's error code, and its status and message for people."""
    errors = answer.json().get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = str(first.get("code", ""))
    said = str(first.get("message", "")) or answer.body.decode(errors="replace").strip()[:200]
    words = ": ".join(part for part in (code, said) if part)
    return code, f"{answer.status} {words or http.client.responses.get(answer.status, '')}".strip()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _environment_proxy(url: str) -> str:
    from urllib.request import getproxies, proxy_bypass  # half the cost of this module, for few of its users

    target = urlsplit(url)
    proxy = getproxies().get(target.scheme, "")
    return "" if not proxy or proxy_bypass(target.netloc) else proxy


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = Credentials(username=unquote(proxy.username), password=unquote(proxy.password or ""))
    return {"Proxy-Authorization": login.basic}
