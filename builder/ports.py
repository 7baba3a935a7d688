"""Interfaces of the pipeline to the engine, checks, registries, caches and receipts."""

from typing import Protocol

from builder.events import OnBytes
from builder.lock import Answer, Entry, Want
from builder.model import Artifact, Plan, Publication, Receipt, Report


class Finder(Protocol):
    """Finds the finished artifact of a plan."""

    def find(self, plan: Plan) -> Artifact | None: ...


class Maker(Protocol):
    """Builds the artifact of a plan, reusing existing layers."""

    def make(self, plan: Plan) -> Artifact: ...


class Checker(Protocol):
    """Runs the checks of a plan on an artifact."""

    def check(self, plan: Plan, artifact: Artifact) -> Report: ...


class Publisher(Protocol):
    """Publishes an artifact and verifies the published digest."""

    def holds(self, publication: Publication) -> bool: ...

    def publish(self, plan: Plan, artifact: Artifact, on_bytes: OnBytes = ...) -> Publication: ...


class LayerCache(Protocol):
    """Cache that shares layers between engines by key."""

    def has(self, key: str) -> bool: ...

    def fetch(self, key: str, on_bytes: OnBytes = ...) -> bool:
        """Pull a cached layer; if the layer is damaged, return False and treat the layer as missing."""

    def keep(self, key: str) -> None: ...


class Ledger(Protocol):
    """Storage of receipts."""

    def find(self, plan: Plan) -> Receipt | None: ...

    def record(
        self,
        plan: Plan,
        artifact: Artifact,
        report: Report | None,
        publications: tuple[Publication, ...],
        *,
        seconds: float = 0.0,
    ) -> Receipt: ...


class Resolver(Protocol):
    """Queries the sources of downloads.

    Raises MissingError if a source cannot be queried (no network, tool or credentials) and IntegrityError if
    the answer is inconsistent or contradicts the lock.
    """

    def resolve(self, want: Want) -> Answer:
        """Return the lock entry for the download that the source offers now."""

    def confirm(self, want: Want, entry: Entry) -> Answer:
        """Check that the source still offers the locked download."""
