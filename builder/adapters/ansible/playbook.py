"""Run roles in a build container: mounts and settings of the play, parsing of its output, errors."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.adapters.ansible import layer_files, local_modules, packages, parsed_settings, runtime
from builder.adapters.ansible.runtime import MOUNT
from builder.adapters.engine.client import Bind, Engine
from builder.adapters.engine.limits import limits
from builder.adapters.host import private
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror, apt_options, proxy_options
from builder.errors import BuildError, CatalogError
from builder.events import Stream, shortened
from builder.marks import RUN_LABEL
from builder.model import Layer, Plan, Value
from builder.patterns import has_template

_TMPFS = {"/tmp": "mode=1777", "/var/tmp": "mode=1777", "/run": "mode=0755"}  # noqa: S108
_MOST_BYTES = 1 << 53  # limit of a size that a play reports
_MOST_TASKS = 10_000  # limit of changed task names kept per role
_CA = f"{MOUNT}/ca.pem"
_PIP_CACHE = f"{MOUNT}/pip"
_LAYER_FILES = f"{MOUNT}/layer_files.py"
LAYER_FILES = Bind(source=layer_files.__file__, target=_LAYER_FILES)
_PARSED_SETTINGS = Bind(source=parsed_settings.__file__, target=runtime.PARSED_SETTINGS)
_LOCAL_MODULES = Bind(source=local_modules.__file__, target=f"{MOUNT}/local_modules.py")
# Launcher code that makes Ansible start and run modules faster in a container. A play leaves little garbage:
# without the threshold, the garbage collector takes a tenth of the start.
_FASTER = (
    "import gc; gc.set_threshold(200_000, 50, 50)\n"
    + parsed_settings.INSTALL.format(path=_PARSED_SETTINGS.target)
    + local_modules.INSTALL.format(path=_LOCAL_MODULES.target)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSetup:
    """Command, mounts and settings of a container that runs the roles of one layer."""

    command: tuple[str, ...]
    mounts: tuple[Bind, ...]
    tmpfs: Mapping[str, str]
    # Host folder with the variables, environment and launcher of the play.
    settings: Path
    keep_packages: Callable[[], None]


@dataclass(kw_only=True)
class Failure:
    role: str
    task: str
    message: str
    details: str = ""
    # Set if a download does not match its locked checksum.
    url: str = ""
    expected: str = ""
    actual: str = ""


@dataclass
class RoleResult:
    """Number of tasks that a role ran, the tasks that changed something, and the role's total duration."""

    tasks: int = 0
    changed: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Listener:
    """Reads a play's output: emits tasks as events, counts results, keeps the first failure."""

    events: Stream
    step: str
    failure: Failure | None = None
    tail: list[str] = field(default_factory=list)
    # Tasks outside roles are counted under "".
    roles: dict[str, RoleResult] = field(default_factory=dict)
    # Some of the files of the parent image that the play deleted.
    deleted: list[str] = field(default_factory=list)

    def line(self, line: str) -> None:
        event = _event(line)
        if event is None:
            self.tail = [*self.tail[-19:], shortened(line)]
            self.events.emit("step.log", step=self.step, text=line)
            return
        role = str(event.get("role", ""))
        name = f"{role} : {event.get('task', '')}".strip(" :")
        if event.get("event") == "task":
            self.events.emit("step.task", step=self.step, text=name)
        elif event.get("event") == "progress":
            done, total = event.get("done"), event.get("total")
            if isinstance(done, int) and isinstance(total, int) and 0 <= done <= total <= _MOST_BYTES:
                self.events.emit("step.progress", step=self.step, done=done, total=total, unit="bytes")
        elif event.get("event") == "failed":
            details, message = str(event.get("details") or ""), str(event.get("message") or "failed")
            download = {field: str(event.get(field) or "") for field in ("url", "expected", "actual")}
            self.failure = self.failure or Failure(
                role=role,
                task=str(event.get("task", "")),
                message=message,
                details=details,
                **download,
            )
            for text in [f"FAILED {name}: {message}", *details.splitlines()]:
                self.events.emit("step.log", step=self.step, text=text)
        elif event.get("event") == "deleted":
            self.deleted = [str(path) for path in event.get("paths") or ()]
        elif event.get("event") == "result":
            state = "changed" if event.get("changed") else "skipped" if event.get("skipped") else "ok"
            seconds = _number(event.get("seconds"))
            self.events.emit("step.log", step=self.step, text=f"{name}: {state}, {seconds:.1f} s")
            result = self.roles.setdefault(role, RoleResult())
            result.tasks += 1
            result.seconds += seconds
            if state == "changed" and len(result.changed) < _MOST_TASKS:
                result.changed.append(name)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _event(line: str) -> dict[str, Any] | None:
    """Return the event in a line of a play; None if it is other output."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def prepare(run: Run, root: Path, plan: Plan, *, compiler: str = "") -> Path:
    """Install the plan's Ansible runtime without compiling it; return its folder. Thread-safe.

    `compiler` names the image that will compile it, unless this is the base of the plan's system.
    """
    lock = root / "ansible" / "requirements.lock"
    if not compiler and plan.base_image:  # made by others
        compiler = plan.layers[0].key
    return runtime.folder_of(run, lock, python=plan.system.python, arch=plan.arch, compiler=compiler)


@contextmanager
def mounts(
    run: Run,
    root: Path,
    plan: Plan,
    layer: Layer,
    mirror: Mirror,
    *,
    base_image: str,
    engine: Engine,
    compiler: str = "",
    epoch: int | None = None,
) -> Iterator[ContainerSetup]:
    """Prepare the mounts for the roles of a layer; temporary folders are deleted at the end of the block.

    `compiler` names `base_image` if it is not the base of the plan's system. With `epoch`, a play leaves no
    file with a later time and no transient files of package managers.
    """
    folder = prepare(run, root, plan, compiler=compiler)
    runtime.ensure_compiled(run, folder, lambda: _compile(run, folder, base_image, engine))
    scratch = run.scratch / layer.key[:16]
    store = run.workspace.cache("apt", f"{plan.system.name}-{plan.arch}")
    has_apt = plan.system.family == "debian"
    try:
        settings = scratch / "run"
        settings.mkdir(parents=True)
        write_settings(settings, layer, plan, mirror, epoch=epoch)
        yield ContainerSetup(
            command=command() if epoch is None else files_command("play", str(epoch), *command()[2:]),
            mounts=(
                Bind(source=str(folder), target=f"{MOUNT}/runtime"),
                Bind(source=str(root / "ansible"), target=f"{MOUNT}/ansible"),
                Bind(source=str(settings), target=f"{MOUNT}/run"),
                Bind(source=str(run.workspace.cache("pip")), target=_PIP_CACHE, writable=True),
                LAYER_FILES,
                _PARSED_SETTINGS,
                _LOCAL_MODULES,
                *(packages.mounts(store, scratch) if has_apt else ()),
                *_mirror_mounts(settings, mirror),
            ),
            tmpfs=_TMPFS,
            settings=settings,
            keep_packages=lambda: packages.keep(run, store, scratch) if has_apt else None,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _compile(run: Run, folder: Path, image: str, engine: Engine) -> None:
    container = engine.create(
        image,
        command=runtime.COMPILE,
        network="none",
        mounts=[Bind(source=str(folder), target=f"{MOUNT}/runtime", writable=True), _PARSED_SETTINGS],
        labels={RUN_LABEL: run.name},
        **limits(engine),
    )
    try:
        lines: list[str] = []
        if engine.run_to_end(container, lines.append) != 0:
            raise BuildError(
                "could not compile the Ansible runtime", hint="builder doctor", details="\n".join(lines)
            )
    finally:
        engine.remove_container(container)


def command(play: str = "image.yml") -> tuple[str, ...]:
    """Return the command that runs a play in a container with the mounts of `mounts`."""
    options = ("-i", "localhost,", "-c", "local", "-e", f"@{MOUNT}/run/variables.json")
    return ("python3", "-I", f"{MOUNT}/run/launch.py", *options, play)


def files_command(*words: str) -> tuple[str, ...]:
    """Return the command that runs `layer_files` in a container with the mount LAYER_FILES."""
    return ("python3", "-I", "-B", _LAYER_FILES, *words)  # -B: it must not write byte code into the image


def role_variables(plan: Plan, layers: Iterable[Layer], *, mirrors: Mapping[str, str]) -> dict[str, Any]:
    """Return the variables of a play that applies these layers: capabilities, role and play variables."""
    applied = tuple(layers)
    return {
        **plan.capabilities,
        **{name: value for layer in applied for name, value in layer.variables.items()},
        "image_components": [name for layer in applied for name in layer.components],
        "factory_mirrors": dict(mirrors),
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def to_variables(table: Mapping[str, Any]) -> str:
    """Return the text of a variables file; raise CatalogError if a value would be evaluated as a template."""
    found = [name for name, value in table.items() if has_template({name: value})]
    if found:
        raise CatalogError(
            [f"variable '{name}' contains a template" for name in found],
            hint="remove the template from the catalog, site file or environment; to list the role variables:"
            " builder plan --target NAME --json",
        )
    return json.dumps(table)


def write_settings(
    folder: Path,
    layer: Layer,
    plan: Plan,
    mirror: Mirror,
    more: Mapping[str, Value] | None = None,
    *,
    epoch: int | None = None,
) -> None:
    """Write the launcher, the variables and the environment of a play; `more` are additional variables.

    Programs that honour SOURCE_DATE_EPOCH write `epoch` instead of the current time.
    """
    bundle = _CA if mirror.ca_bundle else ""
    variables = {**role_variables(plan, [layer], mirrors=_mirrors(mirror)), **(more or {})}
    apt = [
        *(f"{option};" for option in (*apt_options(mirror, ca_bundle=bundle), *proxy_options(mirror))),
        'Dpkg::Options { "--force-unsafe-io"; };',
    ]
    texts = {
        "launch.py": runtime.launcher(MOUNT, prepare=_FASTER),
        "variables.json": to_variables(variables),
        "environment.json": json.dumps(
            _environment(mirror, bundle) | ({} if epoch is None else {"SOURCE_DATE_EPOCH": str(epoch)})
        ),
        "apt.conf": "\n".join(apt) + "\n",
        "sources.list": "\n".join(mirror.apt_sources) + "\n",
    }
    for name, text in texts.items():
        private.write(folder / name, text)  # URLs of indexes and proxies may contain passwords


def _environment(mirror: Mirror, bundle: str) -> dict[str, str]:
    """Return the environment of the play, which is not stored in the image."""
    environment = {
        "HOME": "/tmp/home",  # noqa: S108
        "ANSIBLE_CONFIG": f"{MOUNT}/ansible/ansible.cfg",
        "ANSIBLE_HOME": "/tmp/home/.ansible",  # noqa: S108
        "ANSIBLE_PIPELINING": "True",  # no temporary folder for a module
        "ANSIBLE_STDOUT_CALLBACK": "factory_events",
        "ANSIBLE_LOCAL_TEMP": "/tmp/ansible/local",  # noqa: S108
        "ANSIBLE_REMOTE_TEMP": "/tmp/ansible/remote",  # noqa: S108
        "APT_CONFIG": f"{MOUNT}/run/apt.conf",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        "PIP_CACHE_DIR": _PIP_CACHE,
        "PYTHONDONTWRITEBYTECODE": "1",  # packages compile their files; other byte code depends on the play
        **_package_sources(mirror, bundle, _as_seen_inside),
    }
    return {name: value for name, value in environment.items() if value}


def remote_environment(mirror: Mirror, bundle: str) -> dict[str, str]:
    """Return the environment of tasks on a machine reached over SSH, without URLs of folders on this host."""

    def remote(urls: tuple[str, ...]) -> list[str]:
        return [url for url in urls if "://" in url and not url.startswith("file://")]

    return {name: value for name, value in _package_sources(mirror, bundle, remote).items() if value}


def remote_mirrors(mirror: Mirror) -> dict[str, str]:
    return {prefix: url for prefix, url in mirror.settings.prefixes.items() if url.startswith("http")}


def _package_sources(
    mirror: Mirror, bundle: str, translate: Callable[[tuple[str, ...]], list[str]]
) -> dict[str, str]:
    """Return pip, CA and proxy variables; `translate` maps a URL to one that works on the machine."""
    return {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_INDEX_URL": " ".join(translate((mirror.pip_index,))) if mirror.pip_index else "",
        "PIP_EXTRA_INDEX_URL": " ".join(translate(mirror.pip_extra_indexes)),
        "PIP_FIND_LINKS": " ".join(translate(mirror.pip_find_links)),
        "FACTORY_WHEEL_INDEX": " ".join(translate((mirror.last_index,))) if mirror.last_index else "",
        "PIP_CERT": bundle,
        "SSL_CERT_FILE": bundle,
        **mirror.proxies,
    }


def _as_seen_inside(urls: tuple[str, ...]) -> list[str]:
    """Return URLs and paths as seen in the container, which has host folders mounted below a prefix."""
    prefix = f"{MOUNT}/host"
    return [
        f"file://{prefix}{url.removeprefix('file://')}"
        if url.startswith("file://")
        else f"{prefix}{url}"
        if url.startswith("/")
        else url
        for url in urls
    ]


def _mirrors(mirror: Mirror) -> dict[str, str]:
    """Return the mirror of each URL prefix, for modules that download; mirrors are not part of layer keys."""
    prefixes = mirror.settings.prefixes
    return dict(zip(prefixes, _as_seen_inside(tuple(prefixes.values())), strict=True))


def _mirror_mounts(settings: Path, mirror: Mirror) -> list[Bind]:
    binds = [Bind(source=str(folder), target=f"{MOUNT}/host{folder}") for folder in mirror.folders]
    if mirror.ca_bundle:
        binds.append(Bind(source=str(mirror.ca_bundle.resolve()), target=_CA))
    if mirror.apt_sources:
        binds.append(Bind(source=str(settings / "sources.list"), target="/etc/apt/sources.list"))
    return binds
