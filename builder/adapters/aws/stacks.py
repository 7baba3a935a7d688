"""CloudFormation stacks of one account: change sets, their execution, and deletion.

A change set is shown before it is executed. Stacks have the builder's tag, so that the builder never changes
stacks of other tools.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from builder.adapters.aws.account import Account, as_tags, calling_aws, ignoring, tags_of
from builder.adapters.host.workspace import is_run_name
from builder.errors import BuildError, UsageError
from builder.marks import ARCHITECTURE_TAG
from builder.wait import until

_CAPABILITIES = ["CAPABILITY_IAM"]
_PATIENCE_S = 3600.0
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
T = TypeVar("T")
_PENDING = ("CREATE_PENDING", "CREATE_IN_PROGRESS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Planned change of one resource."""

    action: str  # Add, Modify or Remove
    name: str
    kind: str
    replacement: str  # True, False or Conditional for a modification


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeSet:
    """Changes that a template makes to a stack; `is_new`: the stack does not exist yet.

    Unlike the name, `stack_id` never denotes a later stack of another tool.
    """

    stack: str
    stack_id: str
    name: str
    changes: tuple[Change, ...]
    is_new: bool


def own_stacks(account: Account, region: str) -> list[Mapping[str, Any]]:
    """Return the stacks of `builder deploy` in a region; importing stacks precede exporting stacks."""
    with calling_aws(f"listing stacks in {region}"):
        pages = account.client("cloudformation", region).get_paginator("describe_stacks").paginate()
        found = [stack for page in pages for stack in page["Stacks"] if ARCHITECTURE_TAG in tags_of(stack)]
    alive = [stack for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"]
    return sorted(alive, key=lambda stack: stack["CreationTime"], reverse=True)


def find(account: Account, name: str, region: str = "") -> Mapping[str, Any] | None:
    """Return the description of a stack, or None; raise UsageError for a stack of another tool.

    `name` is a name or an id.
    """
    stack = _described(account, name, region)
    if stack and ARCHITECTURE_TAG not in tags_of(stack) and not _is_proposed(account, stack, region):
        raise UsageError(
            f"stack '{name}' was not made by builder deploy", hint="choose another name: --stack NAME"
        )
    return stack


def _described(account: Account, name: str, region: str) -> Mapping[str, Any] | None:
    """Return the description of an existing stack of any tool, or None; `name` is a name or an id."""
    from botocore.exceptions import ClientError

    with calling_aws(f"describing stack {name}"):
        try:
            found = account.client("cloudformation", region).describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
    stack: Mapping[str, Any] = found[0]
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def _is_proposed(account: Account, stack: Mapping[str, Any], region: str) -> bool:
    """True for a stack that so far consists of change sets of `builder deploy`; such a stack has no tags."""
    if stack["StackStatus"] != "REVIEW_IN_PROGRESS":
        return False
    found = _change_sets(account, stack, region)
    return all(is_run_name(name.removeprefix("run-")) for name in found)


def _change_sets(account: Account, stack: Mapping[str, Any], region: str) -> list[str]:
    """Return the names of all change sets of a stack."""
    name = stack["StackName"]
    with calling_aws(f"listing the change sets of stack {name}"):
        pages = account.client("cloudformation", region).get_paginator("list_change_sets")
        listed = [each for page in pages.paginate(StackName=name) for each in page["Summaries"]]
    return [each["ChangeSetName"] for each in listed if each["StackName"] == name]  # moto lists all stacks


def propose(
    account: Account,
    name: str,
    template: str,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    run: str,
) -> ChangeSet:
    """Create a change set and return it; raise BuildError with CloudFormation's reason if it is refused."""
    stack = find(account, name)
    is_new = stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS"
    client = account.client("cloudformation")
    with calling_aws(f"creating a change set of stack {name}"):
        created = client.create_change_set(
            StackName=name,
            ChangeSetName=run,
            ChangeSetType="CREATE" if is_new else "UPDATE",
            TemplateBody=template,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=_CAPABILITIES,
            Tags=as_tags(tags),
        )
        described = _wait(
            account, name, lambda: _ready(client.describe_change_set(StackName=name, ChangeSetName=run))
        )
    reason = str(described.get("StatusReason", ""))
    if described["Status"] == "FAILED" and not any(text in reason for text in _NO_CHANGES):
        refused = ChangeSet(stack=name, stack_id=created["StackId"], name=run, changes=(), is_new=is_new)
        discard(account, refused)
        raise BuildError(
            f"stack {name}: CloudFormation refuses the change set: {reason}",
            hint="correct the template or its parameters",
        )
    changes = [change["ResourceChange"] for change in described.get("Changes", ())]
    return ChangeSet(
        stack=name,
        stack_id=created["StackId"],
        name=run,
        changes=tuple(
            Change(
                action=change["Action"],
                name=change["LogicalResourceId"],
                kind=change["ResourceType"],
                replacement=change.get("Replacement", ""),
            )
            for change in changes
        ),
        is_new=is_new,
    )


def _ready(described: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return None if described["Status"] in _PENDING else described


def _wait(account: Account, name: str, ready: Callable[[], T | None]) -> T:
    """Poll until `ready` returns a value; raise BuildError after an hour."""
    found = until(ready, timeout_s=_PATIENCE_S, every_s=account.polling)
    if not found:
        raise BuildError(
            f"stack {name}: CloudFormation did not finish within an hour",
            hint=f"aws cloudformation describe-stack-events --stack-name {name}",
        )
    return found


def discard(account: Account, proposed: ChangeSet) -> None:
    """Delete a change set, and the stack that it would have created if that stack is still empty.

    Another user may have created or executed a change set of the stack since the change set was proposed.
    """
    client = account.client("cloudformation")
    with calling_aws(f"deleting a change set of stack {proposed.stack}"):
        with ignoring("ChangeSetNotFound"):
            client.delete_change_set(StackName=proposed.stack_id, ChangeSetName=proposed.name)
        if proposed.is_new and _is_empty(account, proposed):
            client.delete_stack(StackName=proposed.stack_id)


def _is_empty(account: Account, proposed: ChangeSet) -> bool:
    """True if the stack of a deleted change set has neither resources nor other change sets."""
    stack = _described(account, proposed.stack_id, "")
    if stack is None or stack["StackStatus"] != "REVIEW_IN_PROGRESS":
        return False
    return not {*_change_sets(account, stack, "")} - {proposed.name}


def execute(account: Account, proposed: ChangeSet) -> dict[str, str]:
    """Execute a change set, wait for the stack and return its outputs."""
    with calling_aws(f"executing the change set of stack {proposed.stack}"):
        account.client("cloudformation").execute_change_set(
            StackName=proposed.stack, ChangeSetName=proposed.name
        )
    return _finished(account, proposed.stack)


def _finished(account: Account, name: str) -> dict[str, str]:
    def ended() -> Mapping[str, Any] | None:
        stack = find(account, name) or {"StackStatus": "deleted"}
        return None if stack["StackStatus"].endswith("_IN_PROGRESS") else stack

    stack = _wait(account, name, ended)
    if stack["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise _failed(name, stack)
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _failed(name: str, stack: Mapping[str, Any]) -> BuildError:
    return BuildError(
        f"stack {name}: {stack['StackStatus']}: {stack.get('StackStatusReason', '')}".rstrip(": "),
        hint=f"aws cloudformation describe-stack-events --stack-name {name}",
    )


def delete(account: Account, name: str, region: str = "") -> None:
    """Delete a stack and wait until it is gone; raise UsageError for a stack of another tool.

    Another tool may have replaced the stack since the user agreed to delete it.
    """
    found = find(account, name, region)
    if found is None:
        return
    stack_id = found["StackId"]
    with calling_aws(f"deleting stack {name}"):
        account.client("cloudformation", region).delete_stack(StackName=stack_id)

    def is_gone() -> bool:
        stack = _described(account, stack_id, region)
        if stack and stack["StackStatus"] == "DELETE_FAILED":
            raise _failed(name, stack)
        return stack is None

    _wait(account, name, is_gone)
