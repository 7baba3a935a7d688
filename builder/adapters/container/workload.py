"""Build a workload's Dockerfile on top of its component layers with the engine's own builder.

The context contains exactly the files that the Dockerfile copies. The build has no network: downloads of a
workload are locked and belong to components.
"""

import io
import re
import tarfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.adapters.engine.client import LONGEST_S, Engine
from builder.errors import BuildError
from builder.events import shortened
from builder.model import Plan


def build(
    engine: Engine,
    context: io.BytesIO,
    plan: Plan,
    *,
    parent: str,
    tag: str,
    labels: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    events = engine.build(
        context,
        dockerfile="Dockerfile",
        tag=tag,
        buildargs={"PARENT": parent},
        labels=dict(labels),
        network_mode="none",
    )
    lines: deque[str] = deque(maxlen=20)
    deadline = time.monotonic() + LONGEST_S
    for event in events:
        if time.monotonic() > deadline:
            raise BuildError(
                f"containers/{plan.target.workload}/Dockerfile: timed out after {LONGEST_S:.0f} s",
                hint="see the last step in the run's log",
            )
        for line in str(event.get("stream", "")).rstrip().splitlines():
            lines.append(shortened(line))
            say(line)
        if "error" in event:
            raise BuildError(
                f"containers/{plan.target.workload}/Dockerfile: {event['error']}",
                hint="correct the Dockerfile; it is built without network",
                details="\n".join(lines),
            )


def _labelled(dockerfile: str, label: tuple[str, str]) -> str:
    """Return the Dockerfile with the run's label right after FROM, so that partial images have the label."""
    return re.sub(
        r"^(FROM\s.*)$",
        lambda match: f'{match[1]}\nLABEL "{label[0]}"="{label[1]}"',
        dockerfile,
        flags=re.MULTILINE | re.IGNORECASE,
    )


def make_context(root: Path, plan: Plan, run_label: tuple[str, str]) -> io.BytesIO:
    """Return the tar of the build context; its bytes depend only on names, modes, contents and the label."""
    folder = root / "containers"
    text = (folder / plan.target.workload / "Dockerfile").read_text(encoding="utf-8")
    dockerfile = _labelled(text, run_label)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile.encode(), executable=False)
        for name in plan.workload_files:
            path = folder / name
            if path.is_symlink():
                link = tarfile.TarInfo(str(name))
                link.type, link.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(link)
            else:
                _add(tar, str(name), path.read_bytes(), executable=bool(path.stat().st_mode & 0o111))
    context.seek(0)
    return context


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, executable: bool) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o755 if executable else 0o644
    tar.addfile(member, io.BytesIO(content))
