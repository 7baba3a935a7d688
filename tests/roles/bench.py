"""A machine (or a build container) that roles are applied to, as often as one likes, and checked."""

import dataclasses
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import site as site_file
from builder.adapters.ansible import playbook
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.container.maker import LayerMaker
from builder.adapters.engine.client import Bind, Engine
from builder.adapters.host.workspace import Run, Workspace, find_workspace, open_run
from builder.adapters.upstream import mirror
from builder.adapters.upstream.mirror import Mirror
from builder.errors import BuildError
from builder.events import Stream
from builder.marks import RUN_LABEL
from builder.model import Check, Plan
from builder.rehearsal.ec2 import machine
from builder.sources import check_folders
from builder.wait import until
from tests.roles import plans
from tests.roles.door import Door
from tests.roles.plans import ROOT
from tests.roles.play import Play
from tests.standins.site import Content, Site, mode_and_bytes, serve

Say = Callable[[str], None]
_BOOT_S = 120
_IMAGES = "factory-roles"
# Kernel modules that were compiled before, by what they were compiled from.
_MODULES = f"{playbook.MOUNT}/modules"


@dataclass(kw_only=True)
class Bench:
    """One running container; `site` is where its downloads come from, None for the vendors themselves."""

    engine: Engine
    run: Run
    mirror: Mirror
    container: str
    site: Site | None
    say: Say

    def apply(
        self, plan: Plan, *, tasks: Sequence[Mapping[str, Any]] = (), watch: Say = lambda _: None
    ) -> Play:
        """Runs the play with the roles of a plan, or other tasks with its variables."""
        settings = self.settings(plan)
        command = playbook.command()
        if tasks:
            command = playbook.command(f"{playbook.MOUNT}/run/tasks.yml")
            content = [{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]
            (settings / "tasks.yml").write_text(json.dumps(content), encoding="utf-8")
        play = Play(self.say, watch)
        play.end(self.execute(command, play.line))
        return play

    def settings(self, plan: Plan) -> Path:
        """Writes what a play of this plan needs to know; the folder it is in."""
        folder = self.run.scratch / "settings"
        more = {"factory_module_cache": _MODULES}
        playbook.write_settings(folder, plans.one_layer(plan), plan, self.mirror, more)
        return folder

    def execute(self, command: tuple[str, ...], on_line: Say) -> int:
        """Runs a program in the container; its exit code."""
        return self.engine.execute(self.container, command, on_line)

    def shell(self, script: str) -> str:
        """What a script says, both outputs joined; raises where it fails."""
        said: list[str] = []
        code = self.execute(("sh", "-ec", script), said.append)
        if code != 0:
            raise BuildError(f"{script}: exit code {code}", details="\n".join(said))
        return "\n".join(said)

    def put(self, files: Mapping[str, Content | Path]) -> None:
        """Files that are there before any role comes."""
        if not files:
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name.lstrip("/"))
                if isinstance(content, Path):
                    entry.type, entry.linkname = tarfile.SYMTYPE, str(content)
                    archive.addfile(entry)
                    continue
                mode, data = mode_and_bytes(content)
                entry.size, entry.mode = len(data), mode
                archive.addfile(entry, io.BytesIO(data))
        self.engine.put(self.container, "/", packed.getvalue())

    def wait_until_booted(self, *states: str) -> None:
        """Waits for the end of the boot; it has to end in one of the states."""
        said: list[str] = []

        def is_booted() -> bool:
            said.clear()
            self.execute(("systemctl", "is-system-running"), said.append)
            return said in (["running"], ["degraded"])

        if not until(is_booted, timeout_s=_BOOT_S, every_s=0.1) or said[0] not in states:
            raise BuildError(f"the machine did not boot: {said}", details=self.shell("systemctl --failed"))

    def check(self, plan: Plan, components: Sequence[str] = ()) -> tuple[Check, ...]:
        """The checks of all or some components; of an image that is finished, on what it starts as."""
        chosen = components or plan.components
        if "cleanup" not in plan.components:
            return check_container(self.run, plan, self.container, chosen)
        with self.started_anew(plan) as container:
            return check_container(self.run, plan, container, chosen)

    def failures(self, plan: Plan) -> list[str]:
        """The checks that do not hold, each with what it says."""
        return [f"{check.name}: {check.message}" for check in self.check(plan) if check.outcome == "failed"]

    @contextmanager
    def started_anew(self, plan: Plan) -> Iterator[str]:
        """Stores the container as an image and starts that: without mounts, network and what only ran."""
        engine, tag = self.engine, f"{_IMAGES}:{self.run.name}"
        parent = (engine.inspect_container(self.container) or {})["Image"]
        config = (engine.inspect_image(parent) or {}).get("Config") or {}
        engine.commit(self.container, repository=_IMAGES, tag=self.run.name, labels={}, parent_config=config)
        try:
            container = _start(engine, self.run, plan, tag, None)
            try:
                fresh = dataclasses.replace(self, container=container)
                if plan.capabilities["has_systemd"]:
                    # Services of devices that are not here may fail; the checks know which.
                    fresh.wait_until_booted("running", "degraded")
                yield container
            finally:
                engine.remove_container(container)
        finally:
            engine.remove_image(tag)


def check_container(run: Run, plan: Plan, container: str, components: Sequence[str]) -> tuple[Check, ...]:
    """The checks of the components, as `builder check` runs them."""
    folders, environment = check_folders(ROOT, components, ""), os.environ | {"DOCKER_HOST": Engine().url}
    return run_checks(run, ROOT, Stream(), plan, folders, f"docker://{container}", environment=environment)


@contextmanager
def open_scratch(label: str) -> Iterator[Run]:
    """A run that shares the caches of builds and leaves no results."""
    with tempfile.TemporaryDirectory(prefix="roles-") as out:
        workspace = Workspace(home=find_workspace(ROOT).home, out=Path(out))
        with open_run(workspace, label) as run:
            yield run


@contextmanager
def open_site(*, standins: bool, pins: dict[str, str]) -> Iterator[Site | None]:
    """The vendors as stand-ins, or nobody."""
    if not standins:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="standins-") as folder, serve(Path(folder), pins) as site:
        yield site


@contextmanager
def open_bench(
    plan: Plan,
    *,
    site: Site | None,
    say: Say,
    label: str = "roles",
    keep: bool = False,
    door: Door | None = None,
    tmpfs: Mapping[str, str] | None = None,
) -> Iterator[Bench]:
    """Starts the container that a plan's roles belong into; it is gone when the block ends.

    With a `door` one can log in by SSH as well.
    """
    engine = Engine()
    with ExitStack() as stack:
        run = stack.enter_context(open_scratch(label))
        places = _places(plan, site)
        image = _image(engine, run, plan, places, say)
        layer = plans.one_layer(plan)
        ready = stack.enter_context(
            playbook.mounts(run, ROOT, plan, layer, places, base_image=image, engine=engine)
        )
        # The settings change from play to play; the mount that holds them stays.
        folder = ready.settings
        (run.scratch / "settings").symlink_to(folder)
        modules = Bind(source=str(run.workspace.cache("modules")), target=_MODULES, writable=True)
        ready = dataclasses.replace(
            ready, tmpfs={**ready.tmpfs, **(tmpfs or {})}, mounts=(*ready.mounts, modules)
        )
        if door:
            door.make(folder)
            ready = dataclasses.replace(ready, mounts=(*ready.mounts, door.mount(folder)))
        container = _start(engine, run, plan, image, ready, may_log_in=door is not None)
        if not keep:
            stack.callback(engine.remove_container, container)
        bench = Bench(engine=engine, run=run, mirror=places, container=container, site=site, say=say)
        if plan.capabilities["has_systemd"]:
            bench.wait_until_booted("running")
        bench.put(site.base if site else {})
        yield bench
        _forget_standins(site, ready)
        ready.keep_packages()


def _forget_standins(site: Site | None, ready: playbook.Ready) -> None:
    """Leaves nothing of a site among the packages that builds share."""
    served = {path.name.split("_")[0] for path in site.folder.rglob("*.deb")} if site else set()
    for bind in ready.mounts:
        if not bind.target.startswith(("/var/cache/apt", "/var/lib/apt")):
            continue
        for path in Path(bind.source).rglob("*"):
            if path.is_file() and (path.name.startswith("127.0.0.1") or path.name.split("_")[0] in served):
                path.unlink()


def _places(plan: Plan, site: Site | None) -> Mirror:
    """Where downloads come from: the archive as always, everything else from the site if there is one."""
    system = plans.machine_of(plan.system)
    places = mirror.discover(site_file.load(ROOT).mirror, system, plan.stack)
    if site is None:
        return places
    settings = dataclasses.replace(places.settings, prefixes=site.mirrors)
    places = dataclasses.replace(places, settings=settings)
    if not site.indexes:
        return places
    return dataclasses.replace(places, pip_index=site.indexes[0], pip_extra_indexes=(), pip_find_links=())


def _image(engine: Engine, run: Run, plan: Plan, places: Mirror, say: Say) -> str:
    if plan.target.kind == "ami":
        return machine.ensure(engine, run, plans.machine_of(plan.system), places, say)
    maker = LayerMaker(
        engine=engine,
        run=run,
        root=ROOT,
        events=Stream(),
        jobs=1,
        mirror=lambda _: places,
        cache=None,
        last_layers=lambda _: {},
    )
    try:
        return maker.ensure_base(plan)
    finally:
        maker.close()


def _start(
    engine: Engine,
    run: Run,
    plan: Plan,
    image: str,
    ready: playbook.Ready | None,
    *,
    may_log_in: bool = False,
) -> str:
    """A container with the mounts of a build, or without any of them and of the network."""
    more: dict[str, Any] = {
        "labels": {RUN_LABEL: run.name},
        "network": "host" if ready else "none",
        "mounts": ready.mounts if ready else (),
        "tmpfs": ready.tmpfs if ready else {},
    }
    if plan.target.kind == "ami":
        # It shares the network with this machine, which has a port 22 of its own.
        masked = ready is not None and not may_log_in
        arguments = ("systemd.mask=ssh.service",) if masked else ()
        container = machine.create(engine, image, arguments=arguments, **more)
    else:
        container = engine.create(image, command=("sleep", "infinity"), init=True, **more)
    engine.start(container)
    return container
