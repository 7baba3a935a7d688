"""Parser that turns Packer's machine-readable output into events, without any I/O.

The format is the same in all versions of Packer: `time,target,type,text`, where the text has escapes for
commas and line ends.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MACHINE_LINE = re.compile(r"^\d+,[^,]*,(?P<kind>[^,]+),(?P<text>.*)$")
_SOURCE = re.compile(r"(==> |--> |    )?(ami\.)?amazon-ebs\.image: +")
# Packer prints this line before it connects to the instance, so the instance cannot print it first.
_INSTANCE = re.compile(r"Waiting for instance \((i-[0-9a-f]{8,17})\) to become ready\.\.\.")
# Packer 1.6 prints the id of a spot instance only in this format.
_SPOT = "Launching a spot AWS instance..."
_SPOT_INSTANCE = re.compile(r"Instance ID: (i-[0-9a-f]{8,17})")
_PLAY_EVENT = '{"event"'
_PLAY_KINDS = ("message", "say")  # Packer passes on the plays' output as one of these
_KEPT_LINES = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Line of Packer's output; `kind` is say, message, error, artifact, log, ..."""

    kind: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines of the message's text; Packer escapes all line ends, including those in JSON strings."""
        return self.text.replace("\\r", "").split("\\n")


@dataclass(frozen=True, slots=True)
class Started:
    """EC2 has started the build instance."""

    instance: str


@dataclass(frozen=True, slots=True)
class Task:
    """Packer has begun a new step."""

    text: str


@dataclass(frozen=True, slots=True)
class LogLine:
    text: str


@dataclass(frozen=True, slots=True)
class PlayLine:
    """A JSON line that the callback plugin of a play has printed."""

    text: str


Event = Started | Task | LogLine | PlayLine


class PackerLog:
    """Parser of one build's log; keeps the first error and the last lines for error messages."""

    def __init__(self) -> None:
        self.is_started = False  # EC2 has started the build instance
        self._is_spot = False
        self.error = ""
        self.tail: list[str] = []

    def read(self, line: str) -> Iterator[Event]:
        """Yield the events of one line of output in order."""
        message = parse(line)
        text = _SOURCE.sub("", message.text, count=1)
        if message.kind in _PLAY_KINDS and text.startswith(_PLAY_EVENT):
            yield PlayLine(text)
            return
        for part in message.lines:
            yield from self._read_part(message.kind, _SOURCE.sub("", part, count=1).rstrip())

    def _read_part(self, kind: str, text: str) -> Iterator[Event]:
        self.tail = [*self.tail[1 - _KEPT_LINES :], text]
        yield LogLine(text)
        if kind == "error" and not self.error:
            self.error = text.strip()
        if kind == "say" and text:
            yield Task(text)
            self._is_spot |= text == _SPOT
        if not self.is_started and (started := self._named(kind, text)):
            self.is_started = True
            yield Started(started[1])

    def _named(self, kind: str, text: str) -> re.Match[str] | None:
        if kind == "say":
            return _INSTANCE.fullmatch(text)
        return _SPOT_INSTANCE.fullmatch(text) if kind == "message" and self._is_spot else None


def parse(line: str) -> Message:
    """Split a machine-readable line; any other line gets the kind `log`."""
    match = _MACHINE_LINE.match(line)
    if match is None:
        return Message(kind="log", text=line)
    kind, text = match["kind"], match["text"]
    if kind == "ui":
        kind, _, text = text.partition(",")
    return Message(kind=kind, text=text.replace("%!(PACKER_COMMA)", ","))
