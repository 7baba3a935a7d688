"""Fake resolver for tests of `builder lock`, with a given lock entry or error for each input."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from builder.errors import FactoryError
from builder.lock import FIELDS, Answer, Entry, Want

_SHAPES = {"sha256": "{:064x}", "commit": "{:040x}", "digest": "sha256:{:064x}", "id": "ami-{:08x}"}


def entry(want: Want, number: int, *, verified: bool = True) -> Entry:
    """Return a lock entry for the input `want`, with a value derived from `number`."""
    first = FIELDS[want.kind][0]
    return Entry(values={first: _SHAPES[first].format(number)}, verified=verified)


@dataclass
class World:
    """Fake resolver: `holds` maps each wanted input to the entry to return or the error to raise."""

    holds: Mapping[Want, Entry | FactoryError]
    note: str = ""
    asked: list[Want] = field(default_factory=list)

    def resolve(self, want: Want) -> Answer:
        self.asked.append(want)
        found = self.holds[want]
        if isinstance(found, FactoryError):
            raise found
        return Answer(entry=replace(found), note=self.note)

    def confirm(self, want: Want, entry: Entry) -> Answer:
        return self.resolve(want)
