"""Write the files of a run while it happens: `log.txt` for people, `events.ndjson` for programs."""

from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from builder.errors import BuildError
from builder.events import Event
from builder.screen.ndjson import line
from builder.screen.text import clean


class RunFiles:
    """Writer of `log.txt` and `events.ndjson`; unbuffered, so that a killed run leaves no partial lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing = True
        folder.mkdir(parents=True, exist_ok=True)
        self._log: BinaryIO = (folder / "log.txt").open("ab", buffering=0)
        self._events: BinaryIO = (folder / "events.ndjson").open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        if not self._writing:
            return
        try:
            self._events.write(line(event).encode() + b"\n")
            for text in log_lines(event):
                self._log.write(text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            # Raise only once: the cleanup that follows emits events too and must not fail again.
            self._writing = False
            raise BuildError(
                f"cannot write the log of this run in {self._folder}: {error.strerror}",
                hint=f"check the free disk space: df -h {self._folder}",
            ) from error

    def close(self) -> None:
        self._writing = False
        self._log.close()
        self._events.close()


def log_lines(event: Event) -> list[str]:
    """Format an event as log lines (UTC time, step, text, fields); no lines for `step.progress`."""
    if event.name == "step.progress":
        return []
    moment = datetime.fromtimestamp(event.time_s, tz=UTC).isoformat(timespec="milliseconds")[11:23]
    prefix = f"{moment} [{event.step}] " if event.step else f"{moment} "
    if event.name == "step.log":
        return [f"{prefix}{clean(text)}".rstrip() for text in event.text.split("\n")]
    fields = " ".join(f"{name}={value}" for name, value in event.fields.items() if value not in ("", None))
    words = [event.name, clean(event.text), clean(fields)]
    return [prefix + " ".join(word for word in words if word)]
