"""`builder doctor`: checks the requirements of builds on this machine; every problem comes with a fix."""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.adapters.host import process
from builder.adapters.host.http import Client
from builder.adapters.host.network import DIRECT
from builder.adapters.registry.api import origin_of
from builder.adapters.registry.local import PROGRAM, of
from builder.app import preflight
from builder.app.context import Context, add_json, add_site_name, open_context, parser, print_json
from builder.app.probes import BAD, GOOD, NOTE, Finding, Probe, ask_all, safely, site_probes
from builder.app.settings import in_force
from builder.catalog import require_sound
from builder.errors import CatalogError, FactoryError, MissingError
from builder.lock import ACCOUNT
from builder.screen.text import look, size
from builder.site import path_of

_ROOM_BYTES = 10 * 1024**3
ANSWER_S = 3.0  # time limit for all servers, which are asked at once
_PACKAGES = {"docker": "docker.io"}
_STYLES = {GOOD: "good", NOTE: "warn", BAD: "bad"}
_WORDS = {GOOD: "ok", NOTE: "note", BAD: "failed"}


def options() -> argparse.ArgumentParser:
    found = parser(
        "doctor",
        "Check this machine for what a build needs, and ask every server that the settings in force name."
        " Every problem comes with a fix.",
    )
    add_json(found)
    add_site_name(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    findings = list(_findings(context))
    code = MissingError.exit_code if any(finding.state == BAD for finding in findings) else 0
    if parsed.json:
        tables = [dataclasses.asdict(finding) | {"state": _WORDS[finding.state]} for finding in findings]
        print_json(parsed, tables, exit_code=code)
    else:
        _print(findings, path_of(context.root))
    return code


def _print(findings: Sequence[Finding], site_file: Path) -> None:
    style = look(sys.stdout, os.environ)
    width = min(max(len(finding.about) for finding in findings), 28)
    for finding in findings:
        symbol = style.paint(style.symbol(finding.state), _STYLES[finding.state])
        # Shorten the origin to the file's name: a separate line shows the path of the site file.
        origin = site_file.name if finding.origin == str(site_file) else finding.origin
        origin = f" ({origin})" if origin else ""
        text = finding.text.replace("\n", f"\n  {'':<{width}} ")
        print(style.plain(f"{symbol} {finding.about:<{width}} {text}{origin}"))
        if finding.fix and finding.state != GOOD:
            print(style.plain(f"  {'':<{width}} fix: {finding.fix}"))


def _findings(context: Context) -> Iterator[Finding]:
    site_file = safely("site file", partial(_site_file, context))
    is_valid = all(finding.state == GOOD for finding in site_file)
    answers = ask_all(_servers(context, is_valid=is_valid), limit_s=ANSWER_S)
    for name, probe in (("python", _python), ("catalog", _catalog)):
        yield from safely(name, partial(probe, context))
    yield from site_file
    yield from answers()
    if is_valid and context.site_name == ACCOUNT:
        yield from preflight.findings(context)
    for name, probe in (("tools", _tools), ("disk", _disk)):
        yield from safely(name, partial(probe, context))


def _servers(context: Context, *, is_valid: bool) -> dict[str, Probe]:
    """Return the probes that send requests: to the engine, and to the servers in a valid site file."""
    probes: dict[str, Probe] = {"engine": partial(_engine, context)}
    if not is_valid:
        return probes
    try:
        probes |= site_probes(context, in_force(context), limit_s=ANSWER_S)
    except CatalogError:
        text = "servers are not asked, because the catalog is invalid"
        probes["site"] = lambda: [Finding(about="site", state=NOTE, text=text)]
    except MissingError as error:  # BUILDER_HOME
        text, fix = error.message, error.hint
        probes["home"] = lambda: [Finding(about="home", state=BAD, text=text, fix=fix)]
        return probes
    if not context.site.registry.push:
        probes["registry"] = partial(_registry, context)
    return {**probes, "credentials": partial(_credentials, context)}


def _python(_: Context) -> Iterable[Finding]:
    yield Finding(about="python", state=GOOD, text=f"{sys.version.split()[0]} in {sys.prefix}")


def _catalog(context: Context) -> Iterable[Finding]:
    found = context.catalog
    require_sound(found)
    text = f"{len(found.targets)} targets, {len(found.components)} components in {context.root / 'catalog'}"
    yield Finding(about="catalog", state=GOOD, text=text)


def _site_file(context: Context) -> Iterable[Finding]:
    path, keys = path_of(context.root), len(context.site.given)
    text = f"{path}, {keys} keys" if path.exists() else f"no {path}: the defaults of this host are in force"
    yield Finding(about="site file", state=GOOD, text=text)


def _engine(context: Context) -> Iterable[Finding]:
    engine = Engine()
    try:
        version = engine.version()
    except FactoryError as error:
        if context.site_name != ACCOUNT:
            raise
        text = f"{error.message}; containers and rehearsals need it, AMIs for an account do not"
        yield Finding(about="engine", state=NOTE, text=text, fix=error.hint)
        return
    yield Finding(
        about="engine",
        state=GOOD,
        text=f"{version['Version']}, API {version['ApiVersion']}, at {engine.url}",
    )
    info = engine.info()
    root = Path(info["DockerRootDir"])
    if root.is_dir():
        yield _room("engine disk", root, "docker system df, then builder clean")


def _tools(context: Context) -> Iterable[Finding]:
    """Return findings about installed programs; with `--site aws`, container programs are not required."""
    is_local = context.site_name != ACCOUNT
    for name, why, needed in (
        ("mmdebstrap", "builds base images", True),
        ("docker", "runs the checks inside a container", True),
        ("git", "records the commit in receipts", False),
        ("packer", "builds AMIs", False),
    ):
        path = shutil.which(name)
        state = GOOD if path else BAD if needed and is_local else NOTE
        fix = f"apt-get install {_PACKAGES.get(name, name)}"
        yield Finding(about=name, state=state, text=path or f"not installed ({why})", fix=fix)
    pip = process.run([sys.executable, "-m", "pip", "--version"], timeout_s=60)
    state = GOOD if pip.code == 0 else BAD
    yield Finding(about="pip", state=state, text=pip.output.split(" from ")[0], fix="make setup")


def _disk(context: Context) -> Iterable[Finding]:
    for about, folder in (("cache disk", context.workspace.home), ("out disk", context.workspace.out)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            yield Finding(
                about=about,
                state=BAD,
                text=f"cannot write to {existing}",
                fix=f"sudo chown -R $USER {existing}"
                + (", or set BUILDER_HOME" if about == "cache disk" else ""),
            )
        else:
            yield _room(about, existing, "builder clean --all")


def _room(about: str, folder: Path, fix: str) -> Finding:
    free = shutil.disk_usage(folder).free
    state = GOOD if free > _ROOM_BYTES else BAD
    return Finding(about=about, state=state, text=f"{size(free)} free at {folder}", fix=fix)


def _registry(context: Context) -> Iterable[Finding]:
    """Return a finding about the registry on this machine."""
    registry, program = of(context.workspace), shutil.which(PROGRAM)
    if host := registry.find():
        client = Client(DIRECT, silence_s=ANSWER_S)
        login = {"Authorization": registry.credentials.basic}
        with client.open("GET", f"{origin_of(host)}/v2/", headers=login) as response:
            state, text = GOOD if response.status == 200 else BAD, f"{host} answers {response.status}"
        yield Finding(about="registry", state=state, text=text, fix="builder registry down")
        return
    text = f"not installed: {PROGRAM} (the registry for --publish unless site.toml names another)"
    yield Finding(
        about="registry",
        state=GOOD if program else NOTE,
        text="on this machine, started on demand" if program else text,
        fix=f"apt-get install {PROGRAM}",
    )


def _credentials(context: Context) -> Iterable[Finding]:
    if not context.site.registry.push:
        yield Finding(
            about="credentials", state=GOOD, text="none needed: images are pushed to this machine only"
        )
        return
    config = Path(os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))) / "config.json"
    state = GOOD if config.is_file() else NOTE
    text = f"{config}" if config.is_file() else f"no {config}: only registries without login accept a push"
    yield Finding(
        about="credentials",
        state=state,
        text=text,
        fix=f"docker login {context.site.registry.push.split('/')[0]}",
    )
