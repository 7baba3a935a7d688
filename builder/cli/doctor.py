"""`builder doctor`: checks the requirements of builds on this machine; every problem comes with a fix."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.adapters.host import process
from builder.adapters.host.http import Client, TransientError
from builder.adapters.registry.api import origin_of
from builder.adapters.registry.local import PROGRAM, find
from builder.adapters.upstream import mirror
from builder.app.context import Context, open_context, parser
from builder.app.mirrors import site_network
from builder.app.role_plan import default_system
from builder.errors import FactoryError
from builder.model import Stack
from builder.screen.text import look, size

_ROOM_BYTES = 10 * 1024**3
ANSWER_S = 5.0  # timeout for a registry
_PACKAGES = {"docker": "docker.io"}
_CREDENTIALS = re.compile(r"//[^/@ ]*@")  # a login in a URL
_GOOD, _NOTE, _BAD = "passed", "skipped", "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of a probe; `fix` is a command to run or a file to edit."""

    about: str
    state: str
    text: str
    fix: str = ""


def run(argv: Sequence[str]) -> int:
    options = parser("doctor", "Check this machine for what a build needs. Every problem comes with a fix.")
    context = open_context(options.parse_args(argv))
    style = look(sys.stdout, os.environ)
    worst = 0
    for probe in (_python, _catalog, _site, _engine, _tools, _disk, _registry, _credentials):
        for finding in _safely(probe, context):
            symbol = style.paint(
                style.symbol(finding.state), {_GOOD: "good", _NOTE: "warn", _BAD: "bad"}[finding.state]
            )
            print(f"{symbol} {finding.about:<12} {finding.text}")
            if finding.fix and finding.state != _GOOD:
                print(f"  {'':<12} fix: {finding.fix}")
            worst = max(worst, 3 if finding.state == _BAD else 0)
    return worst


def _safely(probe: Callable[[Context], Iterable[Finding]], context: Context) -> list[Finding]:
    try:
        return list(probe(context))
    except FactoryError as error:
        about = probe.__name__.strip("_")
        text = "\n               ".join([error.message, *error.details.splitlines()])
        return [Finding(about=about, state=_BAD, text=text, fix=error.hint)]


def _python(_: Context) -> Iterable[Finding]:
    yield Finding(about="python", state=_GOOD, text=f"{sys.version.split()[0]} in {sys.prefix}")


def _catalog(context: Context) -> Iterable[Finding]:
    found = context.catalog
    text = f"{len(found.targets)} targets, {len(found.components)} components in {context.root / 'catalog'}"
    yield Finding(about="catalog", state=_GOOD, text=text)


def _site(context: Context) -> Iterable[Finding]:
    try:
        system = context.catalog.systems[default_system(context.catalog)]
    except FactoryError:
        return  # the finding `catalog` has the error
    found = mirror.discover(context.site.mirror, system, Stack(name="", summary="", pins={}))
    archives = mirror.archives(context.site.mirror, system).values()
    packages = next(iter(archives), "the defaults of apt")
    indexes = (found.pip_index, *found.pip_extra_indexes, *found.pip_find_links)
    wheels = next(filter(None, indexes), "the default index of pip")
    text = f"packages of {system.name} from {packages}, wheels from {wheels}"
    yield Finding(about="site", state=_GOOD, text=_CREDENTIALS.sub("//", text))


def _engine(_: Context) -> Iterable[Finding]:
    engine = Engine()
    version = engine.version()
    yield Finding(
        about="engine",
        state=_GOOD,
        text=f"{version['Version']}, API {version['ApiVersion']}, at {engine.url}",
    )
    info = engine.info()
    root = Path(info["DockerRootDir"])
    if root.is_dir():
        yield _room("engine disk", root, "docker system df, then builder clean")


def _tools(_: Context) -> Iterable[Finding]:
    for name, why, needed in (
        ("mmdebstrap", "builds base images", True),
        ("docker", "runs the checks inside a container", True),
        ("git", "records the commit in receipts", False),
        ("packer", "builds AMIs", False),
    ):
        path = shutil.which(name)
        state = _GOOD if path else _BAD if needed else _NOTE
        fix = f"apt-get install {_PACKAGES.get(name, name)}"
        yield Finding(about=name, state=state, text=path or f"not installed ({why})", fix=fix)
    pip = process.run([sys.executable, "-m", "pip", "--version"], timeout_s=60)
    state = _GOOD if pip.code == 0 else _BAD
    yield Finding(about="pip", state=state, text=pip.output.split(" from ")[0], fix="make setup")


def _disk(context: Context) -> Iterable[Finding]:
    for about, folder in (("cache disk", context.workspace.home), ("out disk", context.workspace.out)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            yield Finding(
                about=about,
                state=_BAD,
                text=f"cannot write to {existing}",
                fix=f"sudo chown -R $USER {existing}"
                + (", or set BUILDER_HOME" if about == "cache disk" else ""),
            )
        else:
            yield _room(about, existing, "builder clean --all")


def _room(about: str, folder: Path, fix: str) -> Finding:
    free = shutil.disk_usage(folder).free
    state = _GOOD if free > _ROOM_BYTES else _BAD
    return Finding(about=about, state=state, text=f"{size(free)} free at {folder}", fix=fix)


def _registry(context: Context) -> Iterable[Finding]:
    named = context.site.registry.push
    host = named.split("/")[0] if named else find(context.workspace)
    if not host:
        program = shutil.which(PROGRAM)
        yield Finding(
            about="registry",
            state=_GOOD if program else _NOTE,
            text="on this machine, started on demand"
            if program
            else f"not installed: {PROGRAM} (the registry for --publish unless site.toml names another)",
            fix=f"apt-get install {PROGRAM}",
        )
        return
    fix = "builder registry up, or registry.push in site.toml"
    client = Client(site_network(context), hint=fix, silence_s=ANSWER_S)
    try:
        with client.open("GET", f"{origin_of(host)}/v2/") as response:
            answer, state = f"answers {response.status}", _GOOD
    except TransientError as error:
        answer, state = f"does not answer: {error}", _BAD
    yield Finding(about="registry", state=state, text=f"{host} {answer}", fix=fix)


def _credentials(context: Context) -> Iterable[Finding]:
    if not context.site.registry.push:
        yield Finding(
            about="credentials", state=_GOOD, text="none needed: images are pushed to this machine only"
        )
        return
    config = Path(os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))) / "config.json"
    state = _GOOD if config.is_file() else _NOTE
    text = f"{config}" if config.is_file() else f"no {config}: only registries without login accept a push"
    yield Finding(
        about="credentials",
        state=state,
        text=text,
        fix=f"docker login {context.site.registry.push.split('/')[0]}",
    )
