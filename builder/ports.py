"""What the pipeline needs from the outside, and nothing more."""

from typing import Protocol

from builder.model import Artifact, Plan, Publication, Report


class Maker(Protocol):
    """Finds or makes the artifact of a plan."""

    def find(self, plan: Plan) -> Artifact | None: ...

    def make(self, plan: Plan) -> Artifact: ...


class Checker(Protocol):
    """Says whether an artifact does what its plan promises."""

    def check(self, plan: Plan, artifact: Artifact) -> Report: ...


class Publisher(Protocol):
    """Brings an artifact to a destination and reads its digest back."""

    def publish(self, plan: Plan, artifact: Artifact) -> Publication: ...
