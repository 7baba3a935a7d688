"""Apply the rules to a stack in an image: settings for jobs, warnings, and errors that stop the build.

Pure; checks each machine type of the stack, with the facts that the target determines.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import field

from builder.model import Stack, System
from builder.stack.checking import Result, check
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Finding
from builder.stack.vocabulary import Facts, Value, write_value
from builder.values import dataclass

# Machine type for stacks that name no machine type; their settings apply to all machines.
ANYWHERE = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Settings by machine type, environment variables of the image, and messages of warnings and errors."""

    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def judge(
    knowledge: Knowledge, stack: Stack, system: System, *, kind: str, arch: str, members: Collection[str]
) -> Verdict:
    """Return the verdict of the rules on a stack in an image of this kind, architecture and components."""
    facts = _decided(knowledge, system, kind=kind, arch=arch)
    stated = {**knowledge.stack_facts(stack.name), **facts}
    settings: dict[str, tuple[str, ...]] = {}
    environment: dict[str, str] = {}
    errors: list[str] = []
    warnings: dict[str, str] = {}
    for instance in stack.instances or (ANYWHERE,):
        on: dict[str, Value] = {} if instance == ANYWHERE else {"instance": instance}
        result = check(knowledge, {**stated, **on})
        errors += [
            f"{instance}: {finding.rule.id}: {finding.rule.why} ({_facts(finding)})"
            for finding in result.errors
        ]
        for finding in _about(knowledge, stack, {**stated, **on}, members, result):
            warnings[finding.rule.id] = _warning(finding)
        environment |= {s.name: s.value for s in result.settings if s.kind == "image"}
        jobs = (str(setting) for setting in result.settings if setting.kind != "image")
        if values := tuple(dict.fromkeys(jobs)):
            settings[instance] = values
    texts = tuple(warnings[rule] for rule in sorted(warnings))
    return Verdict(settings=settings, environment=environment, warnings=texts, errors=tuple(errors))


def _about(
    knowledge: Knowledge, stack: Stack, stated: Facts, members: Collection[str], result: Result
) -> Iterator[Finding]:
    """Yield the warnings that are about components of the image.

    A stack also pins components of other images. A warning is omitted if it fires for them alone and does
    not fire for the components of this image alone.
    """
    found = [finding for finding in result.findings if finding.rule.severity == "warning"]
    if not found:
        return
    versions = _versions(knowledge, stack, members)
    own = {name for name, component in versions.items() if component in members}
    others = versions.keys() - own
    with_own = derive({name: value for name, value in stated.items() if name not in others}, knowledge)
    with_others = derive({name: value for name, value in stated.items() if name not in own}, knowledge)
    for finding in found:
        if finding.rule.fires(with_own) or not finding.rule.fires(with_others):
            yield finding


def _versions(knowledge: Knowledge, stack: Stack, members: Collection[str]) -> dict[str, str]:
    """Map each version of a stack (by fact) to the component that installs it, if possible of `members`."""
    components = knowledge.catalog.components
    installers = [name for name, component in components.items() if component.requirements == "stack"]
    python = next((name for name in installers if name in members), "")
    packages = {name for name in knowledge.stated[stack.name] if knowledge.vocabulary.facts[name].packages}
    pinned = {name: name for name in (*stack.pins, *stack.brought) if name in components}
    return {**dict.fromkeys(packages - pinned.keys(), python), **pinned}


def _warning(finding: Finding) -> str:
    rule = finding.rule
    return f"{rule.id}: {' '.join(filter(None, (rule.why, rule.fix)))} ({_facts(finding)})"


def _facts(finding: Finding) -> str:
    return ", ".join(f"{name} {write_value(value)}" for name, value in finding.facts.items())


def facts_of(system: System, *, kind: str, arch: str) -> dict[str, str]:
    """Return the facts that a target determines."""
    distribution = "al" if system.distribution == "amazon" else system.distribution
    return {"kind": kind, "arch": arch, "os": distribution + system.release.replace(".", "")}


def _decided(knowledge: Knowledge, system: System, *, kind: str, arch: str) -> dict[str, Value]:
    """Return the facts that a target determines, without values that the vocabulary does not list."""
    facts = knowledge.vocabulary.facts
    return {
        name: word
        for name, word in facts_of(system, kind=kind, arch=arch).items()
        if name in facts and word in (facts[name].one_of or (word,))
    }
