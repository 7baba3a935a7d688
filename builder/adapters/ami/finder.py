"""Find finished AMIs in an account; define the tags of AMIs and of the temporary resources of builds."""

from collections.abc import Mapping
from typing import Any

from builder.adapters.ami.kept import Kept
from builder.adapters.ami.ownership import builder_id
from builder.adapters.aws.account import Account
from builder.adapters.host.workspace import Run
from builder.marks import BUILDER_TAG, COMMIT_TAG, KEY_TAG, RUN_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.model import Artifact, LayerResult, Plan


def tags(plan: Plan, run: Run, commit: str) -> dict[str, str]:
    return {
        TARGET_TAG: plan.target.name,
        KEY_TAG: plan.key,
        RUN_TAG: run.name,
        BUILDER_TAG: builder_id(run.workspace),
        STACK_TAG: plan.stack.name,
        SYSTEM_TAG: plan.system.name,
        COMMIT_TAG: commit,
    }


def artifact(
    plan: Plan,
    image: Mapping[str, Any],
    *,
    outcome: str,
    reason: str,
    seconds: float,
    below: tuple[LayerResult, ...] = (),
) -> Artifact:
    """Return the Artifact of a described image, without a size: EC2 reports only the size of the disk.

    `below` has the results of the checkpoints that the image is based on.
    """
    result = LayerResult(
        name="image",
        key=plan.key,
        outcome=outcome,
        reason=reason,
        image=image["ImageId"],
        seconds=seconds,
        components=plan.components,
    )
    return Artifact(
        kind="ami",
        target=plan.target.name,
        reference=image["ImageId"],
        key=plan.key,
        layers=(*below, result),
    )


def checkpoint_result(found: Kept, *, outcome: str, reason: str, seconds: float = 0.0) -> LayerResult:
    checkpoint = found.checkpoint
    return LayerResult(
        name=checkpoint.name,
        key=checkpoint.key,
        outcome=outcome,
        reason=reason,
        image=found.ami,
        seconds=seconds,
        components=checkpoint.components,
    )


class AmiFinder:
    """Finds existing AMIs by the plan key in their tags."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def find(self, plan: Plan) -> Artifact | None:
        for image in self._account.images({KEY_TAG: plan.key}):
            if image["State"] == "available":
                return artifact(plan, image, outcome="reused", reason="in this account", seconds=0.0)
        return None
