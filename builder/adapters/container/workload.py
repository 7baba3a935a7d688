"""Build a workload's Dockerfile on top of its component layers with the engine's own builder.

The context contains exactly the files that the Dockerfile copies. The build has no network: downloads of a
workload are locked and belong to components.
"""

import io
import re
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder import dockerfile as dockerfiles
from builder.adapters.container.failed import FailedContainers
from builder.adapters.engine.client import LONGEST_S, Engine
from builder.adapters.engine.limits import bounds
from builder.dockerfile import Labelled
from builder.errors import BuildError
from builder.events import shortened
from builder.marks import RUN_LABEL
from builder.model import Plan

# Messages of the engine that name a line of the Dockerfile, and lines that announce an instruction.
_LINE = re.compile(r"(?:dockerfile )?parse error (?:on )?line (\d+): ", re.IGNORECASE)
_STEP = re.compile(r"Step (\d+)/\d+ : ")
_RUNNING = re.compile(r" ---> Running in ([0-9a-f]{12,64})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The build context of a workload: its tar, and the Dockerfile in it."""

    tar: io.BytesIO
    dockerfile: Labelled


def build(
    engine: Engine,
    context: Context,
    plan: Plan,
    *,
    parent: str,
    labels: Mapping[str, str],
    say: Callable[[str], None],
    failed: FailedContainers,
) -> str:
    """Build an image without a tag and return its id."""
    limits = bounds(engine)
    memory, processes = limits.get("mem_limit"), limits.get("pids_limit")
    progress = _Progress(f"containers/{plan.target.workload}/Dockerfile", context.dockerfile)
    deadline, image = time.monotonic() + LONGEST_S, ""
    with progress.refusals():
        for event in engine.build(
            context.tar,
            dockerfile="Dockerfile",
            buildargs={"PARENT": parent},
            labels=dict(labels),
            network_mode="none",
            container_limits={"memory": memory} if memory else None,
            rm=not failed.keep,
            forcerm=not failed.keep,
        ):
            if time.monotonic() > deadline:
                raise BuildError(
                    f"{progress.where}: timed out after {LONGEST_S:.0f} s",
                    hint="see the last step in the run's log",
                )
            for line in str(event.get("stream", "")).rstrip().splitlines():
                progress.read(line)
                say(line)
                if processes and (running := _RUNNING.fullmatch(line)):
                    _limit(engine, running[1], processes, labels)
            image = (event.get("aux") or {}).get("ID", image)
            if "error" in event:
                error = progress.failure(str(event["error"]))
                failed.keep_copy(progress.container, error)
                raise error
    return image


def _limit(engine: Engine, container: str, processes: int, labels: Mapping[str, str]) -> None:
    """Limit the processes of a container of this build; the engine's builder takes no such limit.

    A program in the build can print the id of any container, so the label of the run is compared.
    """
    found = engine.inspect_container(container)
    own = (found or {}).get("Config", {}).get("Labels") or {}
    if own.get(RUN_LABEL) == labels[RUN_LABEL]:
        engine.limit_processes(container, processes)


@dataclass
class _Progress:
    """The instruction that the engine executes, and the last lines of its output."""

    path: str
    dockerfile: Labelled
    step: int = 0  # number of the instruction, from 1
    container: str = ""  # of the instruction, if it runs in one
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))

    def read(self, line: str) -> None:
        self.lines.append(shortened(line))
        if match := _STEP.match(line):
            self.step, self.container = int(match[1]), ""
        elif match := _RUNNING.match(line):
            self.container = match[1]

    @property
    def where(self) -> str:
        """Path, line and text of the current instruction in the user's Dockerfile."""
        if not 0 < self.step <= len(self.dockerfile.steps):
            return self.path
        instruction = self.dockerfile.steps[self.step - 1]
        return f"{self.path}:{instruction.line}: {shortened(f'{instruction.name} {instruction.text}')}"

    def failure(self, message: str) -> BuildError:
        if match := _LINE.search(message):
            where, message = f"{self.path}:{self.dockerfile.line(int(match[1]))}", message[match.end() :]
        else:
            where = self.where
        hint = f"correct {self.path}; it is built without network"
        return BuildError(f"{where}: {message}", hint=hint, details="\n".join(self.lines))

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Raise an engine error that names a line of the Dockerfile as an error in that file."""
        try:
            yield
        except BuildError as error:
            if _LINE.search(error.details):
                raise self.failure(error.details) from error
            raise


def make_context(root: Path, plan: Plan, run_label: tuple[str, str]) -> Context:
    """Return the build context; the bytes of its tar depend only on names, modes, contents and the label."""
    folder = root / "containers"
    text = (folder / plan.target.workload / "Dockerfile").read_text(encoding="utf-8")
    dockerfile = dockerfiles.labelled(text, *run_label)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile.text.encode(), executable=False)
        for name in plan.workload_files:
            path = folder / name
            if path.is_symlink():
                link = tarfile.TarInfo(str(name))
                link.type, link.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(link)
            else:
                _add(tar, str(name), path.read_bytes(), executable=bool(path.stat().st_mode & 0o111))
    content.seek(0)
    return Context(tar=content, dockerfile=dockerfile)


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, executable: bool) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o755 if executable else 0o644
    tar.addfile(member, io.BytesIO(content))
