"""Make launch files from receipts: find the image, apply the rules for the EC2 type, render the text."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.adapters.host import receipts
from builder.adapters.host.workspace import RUN_NAME
from builder.app.context import Context
from builder.arch import of_this_machine
from builder.errors import CheckError, IncompatibleError, IntegrityError, MissingError, UsageError
from builder.launch.files import LaunchFile, render
from builder.launch.job import Image, Job, Wish, make_job
from builder.launch.kubernetes import KINDS
from builder.model import Artifact, Instance, Publication, Report, Target
from builder.patterns import WORD
from builder.reading import shortened
from builder.stack.checking import check
from builder.stack.derive import derive
from builder.stack.judging import ANYWHERE
from builder.stack.vocabulary import Value
from builder.tables import did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stack:
    name: str
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    arch: str
    flavour: _Named
    stack: _Stack
    layers: tuple[_Layer, ...]
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# Patterns for receipt values that are written into a launch file or a command line.
_PLAIN = {
    "run": RUN_NAME,
    "flavour": WORD,
    "created": re.compile(r"[\dT:.Z+-]+", re.ASCII),
    "key": re.compile(r"[0-9a-f]+"),
    "reference": re.compile(r"sha256:[0-9a-f]{64}"),
    "publication": re.compile(r"[\w/\[][\w.:/+\[\]-]*@sha256:[0-9a-f]{64}", re.ASCII),
    "setting": re.compile(r"unset [A-Za-z_]\w*|--cap-add=[A-Z_]+|(?!unset |--cap-add=)[^\x00-\x1f\x7f]*"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recorded:
    """Keys of a receipt that are needed for a launch file."""

    run: str
    created: str
    plan: _Plan
    artifact: Artifact
    report: Report | None
    publications: tuple[Publication, ...]


def launch_file(
    context: Context, target: Target, instance: Instance, service: str, wish: Wish
) -> tuple[Job, LaunchFile]:
    """Return a job and its launch file, from the newest receipt of the target's selected flavour."""
    launch = target.launch
    if launch is None:
        raise UsageError(
            f"target '{target.name}' has no [launch] section, so it has no program to start",
            hint=f"builder show {target.name}",
        )
    for name in wish.folders:
        if name not in launch.mounts:
            raise UsageError(
                f"--mount {name}: target '{target.name}' has no mount"
                f" '{name}'{did_you_mean(name, launch.mounts)}",
                hint=f"mounts of {target.name}: {', '.join(launch.mounts) or 'none'}",
            )
    recorded = _newest(context, target, instance.arch)
    image = _image(context, target, recorded)
    settings = _settings(context, recorded, instance)
    job = make_job(image, launch, instance, settings, wish, service=service)
    return job, render(service, job)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published image, its target, and its ID in the engine that built it."""

    target: Target
    recorded: _Recorded

    @property
    def engine_id(self) -> str:
        return self.recorded.artifact.reference

    def job(self, context: Context, instance: Instance, service: str, wish: Wish) -> Job:
        """Return a job for the image; raise IncompatibleError if the EC2 type or launcher cannot run it."""
        assert self.target.launch
        image = _image(context, self.target, self.recorded)
        settings = _settings(context, self.recorded, instance)
        return make_job(image, self.target.launch, instance, settings, wish, service=service)


def find_published(context: Context, digests: Sequence[str]) -> Published | None:
    """Return the published image with one of these digests (may be shortened); None if there is none."""
    for target in context.catalog.targets.values():
        for table in receipts.all_of(context.workspace.out, target.name) if target.launch else ():
            recorded = _recorded(table)
            names = [publication.name for publication in recorded.publications] if recorded else ()
            found = [name.rpartition(":")[2] for name in names]
            if recorded and any(name.startswith(digest) for name in found for digest in digests):
                return Published(target=target, recorded=recorded)
    return None


def find_instance(context: Context, name: str, *, place: str = "--instance") -> Instance:
    """Return the EC2 type; raise UsageError that names `place` if the catalog has no such type."""
    if name not in context.catalog.instances:
        raise UsageError(
            f"{place}: no EC2 type {shortened(name)} in catalog/instances.toml"
            f"{did_you_mean(name, context.catalog.instances)}",
            hint="add the type to catalog/instances.toml, or choose a type that the file lists",
        )
    return context.catalog.instances[name]


def is_local(name: str) -> bool:
    """Return True if an image is in a registry of this machine, from which no other machine can pull it."""
    host = name.partition("/")[0].partition(":")[0]
    return host == "localhost" or host.startswith("127.")


def kind_of(target: Target, kind: str) -> str:
    """Return the kind of Kubernetes object; raise UsageError if it cannot start the target's runner."""
    if target.launch is None:
        return kind
    kinds = KINDS[target.launch.runner]
    if kind and kind not in kinds:
        raise UsageError(
            f"--as {kind}: the runner of target '{target.name}' is '{target.launch.runner}'"
            f" (available: {', '.join(kinds)})",
            hint=f"--as {kinds[0]}",
        )
    return kind or kinds[0]


def text_of(job: Job, file: LaunchFile) -> str:
    """Return the text of a launch file; YAML begins with comments that name the target and the receipt."""
    if isinstance(file.content, str):
        return file.content
    if file.name.endswith(".json"):
        return json.dumps(file.content, indent=2) + "\n"
    import yaml

    comments = "".join(f"# {line}\n" for line in job.header)
    return comments + str(yaml.safe_dump(file.content, sort_keys=False, width=120))


def find_image(context: Context, target: Target) -> tuple[Image, str]:
    """Return the image of the newest receipt, preferring this architecture, and its id in the engine."""
    recorded = _newest(context, target, of_this_machine())
    return _image(context, target, recorded), recorded.artifact.reference


def _newest(context: Context, target: Target, arch: str) -> _Recorded:
    """Return the newest receipt of the target's flavour, preferring receipts for `arch`."""
    out, flavour = context.workspace.out, context.flavour_of(target).name
    option = f" --flavour {flavour}" if context.flavour else ""
    found = [
        recorded
        for table in receipts.all_of(out, target.name)
        if (recorded := _recorded(table)) and recorded.plan.flavour.name == flavour
    ]
    if not found:
        raise MissingError(
            f"no receipt of target '{target.name}', flavour '{flavour}', in {out / 'receipts'}",
            hint=f"builder build {target.name}{option} --publish",
            details="\n".join(receipts.unreadable(out, target.name)),
        )
    fitting = [recorded for recorded in found if recorded.plan.arch == arch]
    return max(fitting or found, key=lambda recorded: recorded.created)


def _recorded(table: Mapping[str, Any]) -> _Recorded | None:
    try:
        recorded = receipts.decode(_Recorded, table)
    except ValueError:
        return None
    return recorded if isinstance(recorded, _Recorded) else None


def _require_plain(recorded: _Recorded) -> None:
    """Raise IntegrityError if a receipt value has characters that could run as code in a launch file."""
    texts = {
        "run": [recorded.run],
        "flavour": [recorded.plan.flavour.name],
        "created": [recorded.created],
        "key": [recorded.plan.layers[-1].key if recorded.plan.layers else ""],
        "reference": [recorded.artifact.reference],
        "publication": [publication.name for publication in recorded.publications],
        "setting": [text for group in recorded.plan.settings.values() for text in group],
    }
    for name, found in texts.items():
        if wrong := [text for text in found if not _PLAIN[name].fullmatch(text)]:
            raise IntegrityError(
                f"a receipt of target '{recorded.artifact.target}' has an invalid {name}:"
                f" {shortened(wrong[0])}",
                hint="delete the receipt in out/receipts/, and build again",
            )


def _image(context: Context, target: Target, recorded: _Recorded) -> Image:
    _require_plain(recorded)
    option = f" --flavour {recorded.plan.flavour.name}" if context.flavour else ""
    if recorded.report is None or not recorded.report.passed:
        state = "failed" if recorded.report else "did not run"
        raise CheckError(
            f"the checks of the image of run {recorded.run} {state}",
            hint=f"builder build {target.name}{option} --publish",
        )
    if not recorded.publications:
        raise MissingError(
            f"the image of run {recorded.run} is not published, so no node can pull it",
            hint=f"builder build {target.name}{option} --publish",
        )
    names = [publication.name for publication in recorded.publications]
    remote = [name for name in names if not is_local(name)]
    return Image(
        name=(remote or names)[-1],
        target=target.name,
        flavour=recorded.plan.flavour.name,
        key=recorded.plan.layers[-1].key,
        run=recorded.run,
        created=recorded.created,
        arch=recorded.plan.arch,
        accelerator=_accelerator(context, target, recorded),
        instances=recorded.plan.stack.instances,
    )


def _facts(context: Context, stack: str) -> dict[str, Value]:
    return {**context.knowledge.stack_facts(stack), "kind": "container"}


def _accelerator(context: Context, target: Target, recorded: _Recorded) -> str:
    """Return the vendor of the accelerators that the image's stack supports; "none" for CPU stacks."""
    stack = recorded.plan.stack.name
    if stack not in context.knowledge.stacks:
        raise MissingError(
            f"the image of run {recorded.run} has stack '{stack}', which the catalog no longer has",
            hint=f"builder build {target.name} --publish",
        )
    facts = derive(_facts(context, stack), context.knowledge)
    return str(facts.get("accel", "none"))


def _settings(context: Context, recorded: _Recorded, instance: Instance) -> tuple[str, ...]:
    """Return rule settings from the receipt; if the stack names no EC2 types, add settings for the type."""
    if recorded.plan.stack.instances:
        return recorded.plan.settings.get(instance.name, ())
    facts = {**_facts(context, recorded.plan.stack.name), "instance": instance.name}
    result = check(context.knowledge, facts)
    if result.errors:
        rule = result.errors[0].rule
        raise IncompatibleError(
            f"{instance.name}: {rule.id}: {rule.why}",
            hint=rule.fix or f"builder stack check {recorded.plan.stack.name} --set instance={instance.name}",
        )
    found = [str(setting) for setting in result.settings if setting.kind != "image"]
    return tuple(dict.fromkeys([*recorded.plan.settings.get(ANYWHERE, ()), *found]))
