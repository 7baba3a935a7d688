"""Resolve lock file entries at their sources: URLs, git, registries, apt archives, AWS, Python indexes.

Has one method per kind of entry. All requests go through the site's mirror; must not know the catalog.
"""

import hashlib
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from builder.adapters.host import process
from builder.adapters.host.http import login_headers
from builder.adapters.upstream.fetch import REACH, Fetcher
from builder.adapters.upstream.manifests import pick_image, require_image
from builder.adapters.upstream.mirror import Mirror, archives, snapshot
from builder.adapters.upstream.pip import environment_of, missing_wheel, pip_install
from builder.adapters.upstream.suites import release_date, release_url
from builder.errors import BuildError, IntegrityError, MissingError, without_logins
from builder.lock import Answer, Entry, Want
from builder.model import System
from builder.requirements import read_requirements
from builder.sources import file_sha256

A = TypeVar("A")
B = TypeVar("B")

_LIST_LIMIT = 8 << 20
_GIT_S = 60
_GIT_PROTOCOLS = "https:http:file"  # without those that run a program, such as ext and ssh
_GIT_TRIES = 3
_PIP_S = 1800
_GRACE_S = 3.0
_POLL_S = 0.2
_STAMP = "%Y%m%dT%H%M%SZ"
# AMIs are reported as deprecated this long in advance.
_NOTICE = timedelta(days=60)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Messages of git that mean a temporary network failure.
_TRANSIENT = re.compile(r"timed out|reset by peer|early EOF|error: (429|50[0234])|RPC failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheels:
    """Python version, architecture and package sources for a requirements file."""

    python: str
    arch: str
    mirror: Mirror


class MachineImages(Protocol):
    """Lookup of AMIs in an AWS region; each result has the fields that the lock file records."""

    def newest(self, *, region: str, arch: str, owner: str, name: str) -> Mapping[str, str | int]: ...

    def of_parameter(self, *, region: str, parameter: str) -> Mapping[str, str | int]: ...

    def find(self, *, region: str, image: str) -> Mapping[str, str | int] | None: ...

    def deprecation(self, *, region: str, image: str) -> str: ...


class SourceResolver:
    """Thread-safe resolver for all kinds of lock entries."""

    def __init__(
        self,
        *,
        root: Path,
        mirror: Mirror,
        systems: Mapping[str, System],
        wheels: Callable[[str], Sequence[Wheels]],
        images: MachineImages,
        cancelled: threading.Event,
    ) -> None:
        """`systems` has the system of each suite; `wheels` returns the `Wheels` of a requirements file."""
        self._root = root
        self._mirror = mirror
        self._systems = systems
        self._wheels = wheels
        self._cancelled = cancelled
        self._fetcher = Fetcher(mirror, cancelled=cancelled)
        self._images = images
        self._stamp = time.strftime(_STAMP, time.gmtime())

    def resolve(self, want: Want) -> Answer:
        ask: Mapping[str, Callable[[Want], Answer]] = {
            "ami": self._ami,
            "archive": self._archive,
            "git": self._git,
            "image": self._image,
            "requirements": self._requirements,
            "suite": self._suite,
        }
        return ask[want.kind](want)

    def confirm(self, want: Want, entry: Entry) -> Answer:
        ask: Mapping[str, Callable[[Want, Entry], Answer]] = {
            "ami": self._confirm_ami,
            "image": self._confirm_image,
            "suite": self._confirm_suite,
        }
        return ask[want.kind](want, entry) if want.kind in ask else self.resolve(want)

    def _archive(self, want: Want) -> Answer:
        found = self._fetcher.measure(want.subject)
        return _verified({"sha256": found.sha256, "size": found.size})

    # git

    def _git(self, want: Want) -> Answer:
        url, _, ref = want.subject.rpartition(" ")
        # An annotated tag is an object of its own; ^{} names the commit that it points at.
        names = (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}")
        listed = self._ls_remote(
            self._mirror.settings.rewrite(url), *(() if _COMMIT.fullmatch(ref) else names)
        )
        commits = {
            name: commit for commit, name in re.findall(r"^([0-9a-f]{40})\t(\S+)$", listed, re.MULTILINE)
        }
        if _COMMIT.fullmatch(ref):
            note = "" if ref in commits.values() else "no branch or tag points at this commit"
            return Answer(entry=Entry(values={"commit": ref}, verified=not note), note=note)
        found = next((commits[name] for name in names if name in commits), "")
        if not found:
            raise MissingError(f"{url} has no tag or branch '{ref}'", hint=f"git ls-remote {url}")
        return _verified({"commit": found})

    def _ls_remote(self, url: str, *names: str) -> str:
        fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _GIT_PROTOCOLS, "LC_ALL": "C"}
        bare, login = _without_login(url)
        environment = os.environ | fixed | login | dict(self._mirror.proxies)
        if self._mirror.ca_bundle:
            environment["GIT_SSL_CAINFO"] = str(self._mirror.ca_bundle)
        argv = ["git", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30"]
        argv += ["ls-remote", "--quiet", "--", bare, *names]
        for attempt in range(_GIT_TRIES):
            try:
                done = process.run(argv, timeout_s=_GIT_S, cancelled=self._cancelled, env=environment)
            except BuildError as error:
                raise MissingError(f"git: {url}: timed out after {_GIT_S} s", hint=REACH) from error
            if done.code == 0:
                return done.output
            if not _TRANSIENT.search(done.output) or self._cancelled.wait(2**attempt):
                break
        output = re.sub(r"^fatal: (unable to access '[^']*': )?", "", done.output, flags=re.MULTILINE)
        first = (output.splitlines() or ["no output"])[0]
        if unknown := re.search(r"Could not resolve host: (\S+)", first):
            raise MissingError(f"{unknown[1]} cannot be reached: Name or service not known", hint=REACH)
        raise MissingError(f"git: {first}", hint=REACH)

    # container images

    def _image(self, want: Want) -> Answer:
        name, _, arch = want.subject.rpartition(" ")
        real = self._mirror.settings.rewrite(name)
        return _verified(
            {"digest": pick_image(real, arch=arch, mirror=self._mirror, cancelled=self._cancelled)}
        )

    def _confirm_image(self, want: Want, entry: Entry) -> Answer:
        """Confirm that the locked digest still exists; the tag may point at a newer image."""
        name = self._mirror.settings.rewrite(want.subject.rpartition(" ")[0])
        digest = str(entry.values["digest"])
        require_image(name, digest=digest, mirror=self._mirror, cancelled=self._cancelled)
        return _verified(entry.values)

    # AMIs

    def _ami(self, want: Want) -> Answer:
        region, arch, selector = want.subject.split(" ", 2)
        if selector.startswith("/"):
            return _verified(self._images.of_parameter(region=region, parameter=selector))
        owner, _, name = selector.partition("/")
        return _verified(self._images.newest(region=region, arch=arch, owner=owner, name=name))

    def _confirm_ami(self, want: Want, entry: Entry) -> Answer:
        """Confirm that the locked AMI still exists; the note names its deprecation and a newer AMI."""
        region, image = want.subject.split(" ", 1)[0], str(entry.values["id"])
        found = self._images.find(region=region, image=image)
        if found is None:
            raise IntegrityError(f"{region}: {image} no longer exists or is not shared with this account")
        for name in ("name", "owner"):
            if found[name] != entry.values.get(name, found[name]):
                raise IntegrityError(
                    f"{region}: {image} has {name} {found[name]}, but the lock has {entry.values[name]}"
                )
        until = self._images.deprecation(region=region, image=image)
        notes = (_deprecated(until, now=self._stamp), self._newer_ami(want, found))
        return Answer(entry=Entry(values=found, verified=True), note="; ".join(filter(None, notes)))

    def _newer_ami(self, want: Want, locked: Mapping[str, str | int]) -> str:
        """Return a note if the source of an AMI now names another AMI, or none; "" if it names this AMI."""
        try:
            newest = self._ami(want).entry.values
        except MissingError as error:
            return f"no current AMI is published there: {error.message}"
        if newest["id"] == locked["id"]:
            return ""
        day = str(newest["created"])[:10]
        return f"{newest['id']} ({newest['name']}) of {day} is newer: builder lock --update '{want}'"

    # package archives

    def _suite(self, want: Want) -> Answer:
        return self._suite_at(want, self._stamp)

    def _suite_at(self, want: Want, stamp: str) -> Answer:
        name = want.subject.partition(" ")[2]
        system, settings = self._systems[want.subject], self._mirror.settings
        if settings.snapshot:
            archive = snapshot(settings, system, name, stamp)
        else:
            archive = archives(settings, system).get(name, "")
        if not archive:
            raise MissingError(
                f"no package archive configured for {want.subject}",
                hint="set mirror.apt in site.toml",
            )
        text = self._fetcher.read(release_url(archive, name), limit=_LIST_LIMIT)
        date = re.search(rb"^Date: *(.*)$", text, re.MULTILINE)
        when = release_date(date[1].decode(errors="replace")) if date else ""
        if not when:
            raise MissingError(
                f"{release_url(archive, name)} is not an InRelease file",
                hint="correct mirror.apt in site.toml",
            )
        return _verified({"sha256": hashlib.sha256(text).hexdigest(), "date": when, "snapshot": stamp})

    def _confirm_suite(self, want: Want, entry: Entry) -> Answer:
        """Confirm that a release suite is unchanged; update suites may differ, which a build reports."""
        system = self._systems[want.subject]
        found = self._suite_at(want, str(entry.values.get("snapshot", ""))).entry
        assert system.bootstrap is not None
        is_fixed = self._mirror.settings.snapshot or want.subject.partition(" ")[2] == system.bootstrap.suite
        if found.values["sha256"] == entry.values["sha256"]:
            return _verified({**found.values, "snapshot": entry.values.get("snapshot", "")})
        if is_fixed:
            return Answer(entry=found, note=f"its InRelease is dated {found.values['date']}")
        return Answer(
            entry=entry, note=f"newer upstream ({found.values['date']}); builds report the difference"
        )

    # Python packages

    def _requirements(self, want: Want) -> Answer:
        path = self._root / want.subject
        try:
            lines = read_requirements(path)
        except FileNotFoundError as error:
            raise MissingError(f"no file {want.subject}", hint=f"git checkout {want.subject}") from error
        except ValueError as error:
            raise IntegrityError(f"{want.subject}: {error}") from error
        values: dict[str, str | int] = {"sha256": file_sha256(path), "packages": len(lines)}
        for wheels in self._wheels(want.subject) if lines else ():
            if note := self._pip_failure(path, want, wheels):
                return Answer(entry=Entry(values=values, verified=False), note=note)
        return _verified(values)

    def _pip_failure(self, path: Path, want: Want, wheels: Wheels) -> str:
        """Return why `pip install --dry-run` of a requirements file fails; "" if it succeeds."""
        output = self._pip_output(path, want, wheels, wheels.mirror.pip_extra_indexes)
        last = wheels.mirror.last_index
        if last and missing_wheel(output, wheels.mirror):
            output = self._pip_output(path, want, wheels, (*wheels.mirror.pip_extra_indexes, last))
        if not output:
            return ""
        if missing := missing_wheel(output, wheels.mirror):
            return without_logins(f"{missing[0]}; {missing[1]}")
        errors = re.findall(r"^ERROR: (.*)$", output, re.MULTILINE)
        return f"pip: {errors[-1] if errors else output}"

    def _pip_output(self, path: Path, want: Want, wheels: Wheels, extra: Sequence[str]) -> str:
        """Return the output of a `pip install --dry-run` that fails; "" if it succeeds."""
        with tempfile.TemporaryDirectory() as folder:
            argv = pip_install(path, Path(folder), python=wheels.python, arch=wheels.arch)
            try:
                done = process.run(
                    [*argv, "--dry-run", "--ignore-installed"],
                    timeout_s=_PIP_S,
                    cancelled=self._cancelled,
                    env=environment_of(wheels.mirror, extra=extra),
                )
            except BuildError:
                return f"ERROR: timed out after {_PIP_S} s"
        if done.code == 0:
            return ""
        if found := re.search(r"(\S+) from .*:\s+Expected sha256 (\w+)[\s\S]*?Got\s+(\w+)", done.output):
            raise IntegrityError(f"{want.subject}: {found[1]}: expected sha256 {found[2]}, got {found[3]}")
        return done.tail


def _verified(values: Mapping[str, str | int]) -> Answer:
    return Answer(entry=Entry(values=values, verified=True))


def _take(done: "queue.SimpleQueue[A]") -> A:
    """Return the next item of a queue.

    Python runs signal handlers between bytecodes of the main thread: a signal that arrives just before a wait
    without timeout would be handled only after the wait.
    """
    while True:
        try:
            return done.get(timeout=_POLL_S)
        except queue.Empty:
            continue


class Pool:
    """Pool of daemon threads that calls a function for each item, `jobs` at a time."""

    def __init__(self, *, jobs: int, cancelled: threading.Event) -> None:
        self._jobs = jobs
        self._cancelled = cancelled

    def __call__(self, action: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Yield results in order of completion; the first error sets `cancelled` and is raised."""
        todo: queue.SimpleQueue[A] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[list[B], BaseException | None]] = queue.SimpleQueue()
        for item in items:
            todo.put(item)

        def work() -> None:
            while not self._cancelled.is_set():
                try:
                    item = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put(([action(item)], None))
                except BaseException as error:  # noqa: BLE001 (raised by the consumer of the results)
                    done.put(([], error))
                    self._cancelled.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self._jobs, len(items)))]
        for thread in threads:
            thread.start()
        try:
            for _ in items:
                results, error = _take(done)
                if error is not None:
                    raise error
                yield from results
        except BaseException:
            self._cancelled.set()
            for thread in threads:
                thread.join(_GRACE_S)
            raise


def _without_login(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its login, and variables with which git logs in: other users can read an argv."""
    parts, headers = urlsplit(url), login_headers(url)
    if not headers:
        return url, {}
    host = parts.netloc.rpartition("@")[2]
    number = os.environ.get("GIT_CONFIG_COUNT", "")
    count = int(number) if number.isdecimal() else 0
    login = {
        "GIT_CONFIG_COUNT": str(count + 1),
        f"GIT_CONFIG_KEY_{count}": f"http.{parts.scheme}://{host}/.extraHeader",
        f"GIT_CONFIG_VALUE_{count}": f"Authorization: {headers['authorization']}",
    }
    return parts._replace(netloc=host).geturl(), login


def _deprecated(until: str, *, now: str) -> str:
    """Return a note if an AMI is deprecated or will be within `_NOTICE`."""
    day = until[:10]
    if not day:
        return ""
    left = datetime.strptime(day, "%Y-%m-%d") - datetime.strptime(now, _STAMP)
    if left <= timedelta():
        return f"deprecated since {day}"
    return f"will be deprecated on {day}" if left <= _NOTICE else ""
