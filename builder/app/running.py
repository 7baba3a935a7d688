"""Runs a built training image on this machine: command line, mounts, user and signal handling."""

import os
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import LAYERS, Bind, Engine
from builder.adapters.host.workspace import Run, Workspace
from builder.app.interrupts import defer_signals, wait_for_all
from builder.errors import Interrupted, MissingError, UsageError
from builder.launch.section import command_line, flavour_option
from builder.marks import RUN_LABEL
from builder.model import Launch, Plan
from builder.tables import did_you_mean

_STOP_S = 120  # after SIGTERM a program saves a checkpoint
_YEAR_S = 365 * 86400
_CPU_PROCESSES = "2"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Options of `builder run`: number of processes, GPUs ("all" or a number), mounts, arguments."""

    processes: str = ""
    gpus: str = ""
    mounts: Mapping[str, Path]
    arguments: Sequence[str] = ()


def image_of(engine: Engine, plan: Plan) -> str:
    """Return the engine's image of the plan; raise MissingError if the image is not built."""
    name = f"{LAYERS}:{plan.key}"
    if engine.inspect_image(name) is None:
        raise MissingError(
            f"target '{plan.target.name}' is not built in this engine",
            hint=f"builder build {plan.target.name}{flavour_option(plan)}",
        )
    return name


def folders_of(launch: Launch, workspace: Workspace, target: str, given: Mapping[str, Path]) -> list[Bind]:
    """Return the bind mounts of a target; a mount without a given folder gets one below out/volumes."""
    for name, folder in given.items():
        if name not in launch.mounts:
            known = ", ".join(launch.mounts) or "none"
            raise UsageError(
                f"--mount {name}: target '{target}' has no mount '{name}'{did_you_mean(name, launch.mounts)}",
                hint=f"mounts of {target}: {known}",
            )
        if not folder.is_dir():
            raise UsageError(
                f"--mount {name}: no folder {folder}", hint=f"mkdir -p {shlex.quote(str(folder))}"
            )
    binds = []
    for name, path in launch.mounts.items():
        folder = given.get(name) or workspace.out / "volumes" / target / name
        folder.mkdir(parents=True, exist_ok=True)
        binds.append(Bind(source=str(folder.resolve()), target=path, writable=True))
    return binds


def run_image(engine: Engine, run: Run, image: str, target: str, launch: Launch, wish: Wish) -> int:
    """Run the training program of an image until it ends, print its output, and return its exit code.

    After SIGINT, SIGTERM or SIGHUP, the program gets SIGTERM and time to save a checkpoint.
    """
    processes = wish.processes or ("gpu" if wish.gpus else _CPU_PROCESSES)
    container = engine.create(
        image,
        command=command_line(launch, processes=processes, arguments=wish.arguments),
        network="bridge",
        labels={RUN_LABEL: run.name},
        mounts=folders_of(launch, run.workspace, target, wish.mounts),
        user=f"{os.getuid()}:{os.getgid()}",
        init=True,
        shm_size=f"{launch.shared_memory_gib}g",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        **_devices(wish.gpus),
    )
    try:
        with ThreadPoolExecutor(1) as pool:
            with defer_signals():
                ended = pool.submit(_follow, engine, container)
            try:
                wait_for_all([ended])
            except Interrupted:
                engine.stop(container, grace_s=_STOP_S)
                raise
            return ended.result()
    finally:
        engine.remove_container(container)


def _follow(engine: Engine, container: str) -> int:
    def show(line: str) -> None:
        print(line, flush=True)

    return engine.run_to_end(container, show, timeout_s=_YEAR_S, silence_s=_YEAR_S)


def _devices(gpus: str) -> dict[str, Any]:
    """Return Docker's host config for GPUs: devices, and no memlock limit, as GPU transfers lock memory."""
    if not gpus:
        return {}
    count = -1 if gpus == "all" else int(gpus)
    return {
        "device_requests": [{"count": count, "capabilities": [["gpu"]]}],
        "ulimits": [{"Name": "memlock", "Soft": -1, "Hard": -1}],
    }
