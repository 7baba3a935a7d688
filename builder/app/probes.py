"""Probe every server, file and folder named by the settings in force, in parallel, with a time limit."""

import dataclasses
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from builder.adapters.host.http import Client, TransientError, login_headers
from builder.adapters.registry.api import origin_of
from builder.adapters.upstream.mirror import snapshot
from builder.adapters.upstream.suites import release_url
from builder.app.context import Context
from builder.app.settings import InForce, Setting
from builder.errors import FactoryError, without_logins
from builder.site import ECR, path_of

GOOD, NOTE, BAD = "passed", "skipped", "failed"
_SUCCESS = range(200, 300)
_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Result of a probe; `fix` is a command to run or a file to edit."""

    about: str
    state: str
    text: str
    fix: str = ""
    origin: str = ""


Probe = Callable[[], Iterable[Finding]]


def ask_all(probes: Mapping[str, Probe], *, limit_s: float) -> Callable[[], Iterator[Finding]]:
    """Start all probes at once; return a function that yields the findings in order.

    A probe that runs longer than `limit_s` seconds yields a failed finding; its thread ends with the
    process.
    """
    answers: dict[str, queue.SimpleQueue[Sequence[Finding]]] = {name: queue.SimpleQueue() for name in probes}
    deadline = time.monotonic() + limit_s

    def work(name: str) -> None:
        answers[name].put(safely(name, probes[name]))

    for name in probes:
        threading.Thread(target=work, args=(name,), daemon=True).start()

    def findings() -> Iterator[Finding]:
        for name, answer in answers.items():
            try:
                yield from answer.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                yield Finding(about=name, state=BAD, text=f"no answer within {limit_s:g} s")

    return findings


def safely(name: str, probe: Probe) -> Sequence[Finding]:
    """Return the findings of a probe; turn an error into a failed finding with the error's hint as fix."""
    try:
        return list(probe())
    except FactoryError as error:
        text = "\n".join([error.message, *error.details.splitlines()])
        return [Finding(about=name, state=BAD, text=text, fix=error.hint)]
    except TransientError as error:
        return [Finding(about=name, state=BAD, text=f"does not answer: {error}")]
    except OSError as error:
        return [Finding(about=name, state=BAD, text=error.strerror or type(error).__name__)]


def site_probes(context: Context, force: InForce, *, limit_s: float) -> dict[str, Probe]:
    """Return one probe for each server, file and folder in the settings in force, by setting name."""
    asking = _Asking(context, force, limit_s)
    found: dict[str, Probe] = {}
    for setting in force.settings:
        ask = _ASK.get(setting.key)
        if not setting.value or (ask is None and setting.key not in context.site.given):
            continue
        for name, text in _values(setting):
            found[name] = _probe(asking, name, text, setting, ask)
    return found


def _values(setting: Setting) -> Iterator[tuple[str, str]]:
    """Yield (name, value) for each value of a setting that is probed separately."""
    if isinstance(setting.value, list) and setting.key in _ASK:
        for i, text in enumerate(setting.value):
            yield (f"{setting.key}[{i}]" if len(setting.value) > 1 else setting.key), text
    elif isinstance(setting.value, dict):
        yield from ((f'{setting.key}."{prefix}"', url) for prefix, url in setting.value.items())
    else:
        yield (
            setting.key,
            setting.texts[0][1] if isinstance(setting.value, list | bool | int) else setting.value,
        )


Ask = Callable[["_Asking", str], tuple[str, str]]


def _probe(asking: "_Asking", name: str, text: str, setting: Setting, ask: Ask | None) -> Probe:
    is_own = setting.origin == str(path_of(asking.context.root))
    fix = f"correct {setting.key} in {setting.origin}" if is_own else f"set {setting.key} in site.toml"

    def probe() -> Iterable[Finding]:
        try:
            state, answer = ask(asking, text) if ask else (GOOD, "")
        except TransientError as error:
            state, answer = BAD, f"does not answer: {error}"
        except FactoryError as error:
            state, answer = BAD, error.message
        except OSError as error:
            state, answer = BAD, error.strerror or type(error).__name__
        shown = without_logins(f"{text}: {answer}" if answer else text)
        yield Finding(about=name, state=state, text=shown, fix=fix, origin=setting.origin)

    return probe


class _Asking:
    """Probes of single setting values; each returns (state, answer) or raises an error with the reason."""

    def __init__(self, context: Context, force: InForce, limit_s: float) -> None:
        self.context = context
        self._force = force
        network = force.mirror.network
        if network.ca_bundle and not _has_certificates(network.ca_bundle):
            network = dataclasses.replace(network, ca_bundle=None)  # the bundle has a finding of its own
        self._network = network
        self._client = Client(network, silence_s=limit_s)
        self._limit_s = limit_s

    def archive(self, url: str) -> tuple[str, str]:
        """Request the InRelease file of a suite of the reference system from a package archive."""
        assert self._force.system.bootstrap is not None
        return self._release(url, self._force.system.bootstrap.suite)

    def security_archive(self, url: str) -> tuple[str, str]:
        assert self._force.system.bootstrap is not None
        return self._release(url, f"{self._force.system.bootstrap.suite}-security")

    def snapshot(self, _: str) -> tuple[str, str]:
        """Request InRelease of the release suite from the locked snapshot (if none: from today's)."""
        system = self._force.system
        assert system.bootstrap is not None
        suite = system.bootstrap.suite
        stamp = self.context.lock.value("suite", f"{system.distribution} {suite}", "snapshot")
        stamp = stamp or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return self._release(snapshot(self.context.site.mirror, system, suite, stamp), suite)

    def _release(self, archive: str, suite: str) -> tuple[str, str]:
        url = release_url(self.context.site.mirror.rewrite(archive), suite)
        status, head = self._get(url)
        if status not in _SUCCESS:
            return BAD, f"answers {status} to {urlsplit(url).path}"
        if b"\nDate:" not in head:
            return BAD, f"{urlsplit(url).path} is not an InRelease file"
        return GOOD, f"answers, has {suite}"

    def index(self, url: str) -> tuple[str, str]:
        """Request a package of the reference stack from a Python package index, then the index page."""
        if folder := _local(url):
            return _folder(folder)
        lines = self._force.stack.requirements or ("pip==1",)
        package = lines[0].partition("==")[0].partition("[")[0]
        status, _ = self._get(f"{url.rstrip('/')}/{package}/")
        if status in _SUCCESS:
            return GOOD, f"answers, has {package}"
        if status == 404:
            status, _ = self._get(f"{url.rstrip('/')}/")
            if status in _SUCCESS:
                return NOTE, f"answers, but lacks {package}"
        return BAD, f"answers {status}"

    def last_index(self, url: str) -> tuple[str, str]:
        """Probe the stack's package index; failures are notes, as builds ask it only after other indexes."""
        try:
            state, answer = self.index(url)
        except (TransientError, FactoryError) as error:
            state, answer = BAD, str(error)
        return (GOOD if state == GOOD else NOTE), answer

    def links(self, url: str) -> tuple[str, str]:
        if folder := _local(url):
            return _folder(folder)
        status, _ = self._get(url)
        return (GOOD if status in _SUCCESS else BAD), f"answers {status}"

    def ca_bundle(self, path: str) -> tuple[str, str]:
        if not Path(path).is_file():
            return BAD, "no such file"
        count = _has_certificates(Path(path))
        return (GOOD, f"{count} certificates") if count else (BAD, "contains no certificates")

    def proxy(self, url: str) -> tuple[str, str]:
        """Open a connection to each proxy, because the other probes send their requests through it."""
        for one in url.split(", "):
            parts = urlsplit(one if "://" in one else f"http://{one}")
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=self._limit_s).close()
        return GOOD, "accepts connections"

    def server(self, url: str) -> tuple[str, str]:
        """Request a URL of a server; every HTTP status below 500 counts as success."""
        if folder := _local(url):
            return _folder(folder) if url.endswith("/") else _folder(folder.parent, prefix=folder.name)
        if "://" not in url:
            return self.registry(url)
        status, _ = self._get(url)
        return (GOOD if status < 500 else BAD), f"answers {status}"

    def registry(self, name: str) -> tuple[str, str]:
        host = name.partition("/")[0]
        if host == ECR:
            return GOOD, f"ECR of the account of --site {self.context.site_name}"
        status, _ = self._get(f"{origin_of(host)}/v2/")
        return (GOOD if status in (200, 401, 403) else BAD), f"answers {status}"

    def _get(self, url: str) -> tuple[int, bytes]:
        """Return the HTTP status of a URL and the first bytes of its content."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            with Path(unquote(parts.path)).open("rb") as file:
                return 200, file.read(_HEAD_BYTES)
        with self._client.open("GET", url, headers=login_headers(url)) as response:
            return response.status, response.read(_HEAD_BYTES)


def _local(url: str) -> Path | None:
    """Return the path if the text is a file URL or an absolute path; otherwise None."""
    path = url.removeprefix("file://")
    return Path(unquote(path)) if path.startswith("/") else None


def _folder(path: Path, *, prefix: str = "") -> tuple[str, str]:
    """Return the state of a folder: GOOD if it has an entry whose name begins with `prefix`."""
    if not path.is_dir():
        return BAD, f"no folder {path}"
    if prefix and not any(each.name.startswith(prefix) for each in path.iterdir()):
        return BAD, f"no file or folder begins with {path / prefix}"
    return GOOD, "folder"


def _has_certificates(bundle: Path) -> int:
    """Return the number of certificates in a file; 0 if it cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(bundle)
    except OSError:
        return 0
    return len(context.get_ca_certs())


_ASK: Mapping[str, Ask] = {
    "mirror.apt": _Asking.archive,
    "mirror.apt_security": _Asking.security_archive,
    "mirror.snapshot": _Asking.snapshot,
    "mirror.pip_index": _Asking.index,
    "mirror.pip_extra_indexes": _Asking.index,
    "mirror.pip_find_links": _Asking.links,
    "wheel_index": _Asking.last_index,
    "mirror.ca_bundle": _Asking.ca_bundle,
    "mirror.proxy": _Asking.proxy,
    "mirror.token_hosts": lambda asking, host: asking.server(f"{origin_of(host)}/"),
    "mirror.prefixes": _Asking.server,
    "registry.push": _Asking.registry,
    "registry.cache": _Asking.registry,
}
