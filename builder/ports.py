"""What the pipeline needs from the outside, and nothing more."""

from typing import Protocol

from builder.lock import Answer, Entry, Want
from builder.model import Artifact, Plan, Publication, Receipt, Report


class Finder(Protocol):
    """Knows what exists already."""

    def find(self, plan: Plan) -> Artifact | None: ...


class Maker(Protocol):
    """Makes the artifact of a plan, or what is missing of it."""

    def make(self, plan: Plan) -> Artifact: ...


class Checker(Protocol):
    """Says whether an artifact does what its plan promises."""

    def check(self, plan: Plan, artifact: Artifact) -> Report: ...


class Publisher(Protocol):
    """Brings an artifact to a destination and reads its digest back."""

    def holds(self, publication: Publication) -> bool: ...

    def publish(self, plan: Plan, artifact: Artifact) -> Publication: ...


class LayerCache(Protocol):
    """Shares layers between engines, by key."""

    def has(self, key: str) -> bool: ...

    def fetch(self, key: str) -> None: ...

    def keep(self, key: str) -> None: ...


class Ledger(Protocol):
    """Keeps receipts."""

    def find(self, plan: Plan) -> Receipt | None: ...

    def record(
        self,
        plan: Plan,
        artifact: Artifact,
        report: Report | None,
        publications: tuple[Publication, ...],
    ) -> Receipt: ...


class Resolver(Protocol):
    """Asks where downloads come from.

    Raises MissingError where nobody can be asked (no way there, no tool, no credentials) and IntegrityError
    where the answer contradicts itself or the lock.
    """

    def resolve(self, want: Want) -> Answer:
        """What its source holds now."""

    def confirm(self, want: Want, entry: Entry) -> Answer:
        """What its source holds of what is locked."""
