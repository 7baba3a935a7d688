"""List the differences between two stacks, riskiest first, as rows for text, Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Value, write_value

# Facts in the order of the risk that a change poses to a cluster; all other facts follow by name.
_RISK = (
    *(
        "os",
        "arch",
        "kind",
        "kernel",
        "nvidia_driver",
        "nvidia_driver_flavor",
        "nvidia_fabric_manager",
        "nvidia_imex",
    ),
    *("neuron_driver", "cuda", "neuron_sdk", "efa", "efa_kmod", "libfabric", "aws_ofi_nccl"),
    *("nccl", "torch_nccl", "neuron_runtime", "neuron_collectives", "gdrdrv", "gdrcopy"),
    *("torch", "torch_cuda", "torch_neuronx", "cudnn", "python", "slurm"),
)
# Derived facts to omit: the differences of the facts that they are derived from are listed.
_ECHOES = frozenset(
    {"nvidia_driver_branch", "nvidia_driver_below_bundled", "kernel_gpl_symbols", "accel_stacks", "host_os"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Fact that differs between two stacks; "" for a stack without the fact."""

    fact: str
    what: str
    before: str
    after: str
    change: str  # added, removed, newer, older, rebuilt, changed


def differences(knowledge: Knowledge, before: str, after: str) -> tuple[Difference, ...]:
    """Return the facts that change for a user who moves from stack `before` to `after`, riskiest first."""
    old, new = (_contents(knowledge, name) for name in (before, after))
    rows = [
        Difference(
            fact=name,
            what=knowledge.vocabulary.facts[name].what,
            before=write_value(old[name]) if name in old else "",
            after=write_value(new[name]) if name in new else "",
            change=_change(old.get(name), new.get(name)),
        )
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    return tuple(sorted(rows, key=lambda row: (_rank(row.fact), row.fact)))


def _contents(knowledge: Knowledge, name: str) -> dict[str, Value]:
    facts = derive(knowledge.stack_facts(name), knowledge)
    return {fact: value for fact, value in facts.items() if value is not ABSENT and fact not in _ECHOES}


def _rank(fact: str) -> int:
    return _RISK.index(fact) if fact in _RISK else len(_RISK)


def _change(before: Value | None, after: Value | None) -> str:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    if isinstance(before, Version) and isinstance(after, Version):
        if before.upstream == after.upstream:
            return "rebuilt"
        return "newer" if before < after else "older"
    return "changed"


def markdown(before: str, after: str, rows: Sequence[Difference]) -> str:
    """Return the differences as a Markdown section for release notes."""
    lines = [f"### From `{before}` to `{after}`", ""]
    if not rows:
        return "\n".join([*lines, "Nothing changed.", ""])
    lines += ["| what | before | after | |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.before or '-'} | {row.after or '-'} | {row.change} |" for row in rows]
    return "\n".join([*lines, ""])
